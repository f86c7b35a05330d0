"""Cross-entropy of the learned tokens only, and never all logits of a pass at once."""

from typing import Any

import torch

CHUNK_BYTES = 64 * 2**20
"""Of logits in float32 that are held at a time."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient of the hidden states is found in the forward pass: softmax(h Wᵀ) - onehot(y), times W.

    So the logits are computed once and never kept, as in Liger's fused linear cross-entropy
    (https://arxiv.org/abs/2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        gradients = [
            torch.zeros_like(value) if value is not None and needed else None
            for value, needed in zip((hidden, weight, bias), wanted, strict=True)
        ]
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            total += _add(hidden[part], weight, bias, targets[part], part, gradients).sum()
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        # Handed over, not kept: autograd would copy what somebody else still holds.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if each is None else each.mul_(outer[0].to(each.dtype)) for each in gradients]
        return (*scaled, None)


class _ChunkedLogprobs(torch.autograd.Function):
    """Likewise log p of each target by itself, for a head that is not trained.

    Whatever comes back for a row is a factor of that row's gradient, which can wait for it.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        of_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        logprobs = hidden.new_zeros(len(targets), dtype=torch.float32)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            losses = _add(hidden[part], weight, bias, targets[part], part, [of_hidden, None, None])
            logprobs[part] = -losses[:, 0]
        ctx.of_hidden = of_hidden
        return logprobs

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        of_hidden, ctx.of_hidden = ctx.of_hidden, None
        scaled = None if of_hidden is None else of_hidden.mul_(-outer[0][:, None].to(of_hidden.dtype))
        return scaled, None, None, None


def _add(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    part: slice,
    gradients: list[torch.Tensor | None],
) -> torch.Tensor:
    """-log p(target) of each row of a chunk (rows × size), as rows × 1; adds its gradients."""
    logits = (hidden @ weight.t() if bias is None else torch.addmm(bias, hidden, weight.t())).float()
    chosen = logits.gather(1, targets[:, None])
    highest = logits.amax(1, keepdim=True)
    probabilities = logits.sub_(highest).exp_()
    sums = probabilities.sum(1, keepdim=True)
    losses = sums.log() + highest - chosen
    of_hidden, of_weight, of_bias = gradients
    if of_hidden is not None or of_weight is not None or of_bias is not None:
        difference = probabilities.div_(sums)
        difference.scatter_add_(1, targets[:, None], torch.full_like(chosen, -1.0))
        difference = difference.to(weight.dtype)
        if of_hidden is not None:
            torch.mm(difference, weight, out=of_hidden[part])
        if of_weight is not None:
            of_weight.addmm_(difference.t(), hidden)
        if of_bias is not None:
            of_bias.add_(difference.sum(0))
    return losses


def summed_loss(hidden: torch.Tensor, head: torch.nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """Sum of cross-entropies in nats over the tokens whose label is not -100, in float32.

    `hidden` (tokens × size) are the last layer's states, `labels` (tokens) the ids of the tokens
    themselves, not shifted: the state of a token predicts the one after it.
    """
    weight: torch.Tensor = head.weight
    bias: torch.Tensor | None = head.bias
    if not torch.is_grad_enabled():
        # Otherwise a head that is trained would have its gradient made for nothing.
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    places = torch.nonzero(labels[1:] != -100)[:, 0]
    total: torch.Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden[places], weight, bias, labels[places + 1]
    )
    return total


def token_logprobs(hidden: torch.Tensor, head: torch.nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """log p of each token (natural, in float32) whose label is not -100, and 0 for the others.

    Of the same shapes as `summed_loss` takes. The head must not be trained.
    """
    assert not head.weight.requires_grad
    places = torch.nonzero(labels[1:] != -100)[:, 0]
    found: torch.Tensor = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden[places], head.weight, head.bias, labels[places + 1]
    )
    return found.new_zeros(len(labels)).index_put((places + 1,), found)
