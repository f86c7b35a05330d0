"""Noise on the embeddings while training (NEFTune, https://arxiv.org/abs/2310.05914).

Transformers' own goes by the length of the whole row, which would make it weaker the more records share one.
"""

from typing import Any

import torch

from hone_trainer.training.collating import Pass


class Noise:
    """Added to what the input embeddings give while a model trains: uniform in ± alpha / √(length × size)."""

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self.scale: torch.Tensor | None = None
        """One over the root of the length of the record that each token is of, rows × tokens."""
        model.get_input_embeddings().register_forward_hook(self._add)

    def prepare(self, one: Pass) -> None:
        """Tell the records of the pass that comes next."""
        ids = one["input_ids"]
        if (lengths := one.get("record_lengths")) is not None:
            each = torch.tensor(lengths, device=ids.device)
            tokens = each.repeat_interleave(each)[None]
        else:
            tokens = one["attention_mask"].sum(1, keepdim=True).expand_as(ids)
        self.scale = tokens.float().rsqrt()

    def _add(self, module: torch.nn.Module, _inputs: Any, states: torch.Tensor) -> torch.Tensor:
        if not module.training or self.scale is None:
            return states
        width: torch.Tensor = self.alpha * states.shape[-1] ** -0.5 * self.scale[..., None].to(states.dtype)
        noisy: torch.Tensor = states + torch.empty_like(states).uniform_(-1, 1) * width
        return noisy
