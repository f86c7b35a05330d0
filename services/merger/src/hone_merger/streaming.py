"""Runs a model that lies on the disk without ever holding it: a module has weights while it works.

In float32 whatever the weights are stored in, as the probes are recorded. Linear layers and embeddings, where
nearly all weights are, are not even converted as a whole.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hone_merger.fusing.checkpoint import stored_tensors
from hone_merger.fusing.names import Group, Named, Names

# Rows of a linear layer that are in float32 at once, by elements.
_AT_ONCE = 2 * 1024 * 1024


class Readable(Named, Protocol):
    """A tensor of a checkpoint that can be read, whether it is written or only planned."""

    def read(self) -> torch.Tensor: ...


def streamed(folder: Path, tensors: Iterable[Readable] | None = None) -> PreTrainedModel:
    """The model of a folder, ready to be called; its parameters are on the meta device between calls.

    Of these `tensors`; None: of those in the folder, which otherwise needs no more than its config.json.
    """
    config = AutoConfig.from_pretrained(folder)
    # Buffers that no checkpoint has, such as the frequencies of rotary embeddings, are computed here.
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = _Weights(stored_tensors(folder) if tensors is None else tensors, model)
    for name, module in model.named_modules():
        for own in [own for own, _ in module.named_buffers(recurse=False)]:
            if f"{name}.{own}" in weights:
                setattr(module, own, weights.read(f"{name}.{own}").clone())
        if parameters := {own: f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)}:
            _stream(module, parameters, weights)
    return model.eval()


@torch.inference_mode()
def score_all(model: Any, texts: list[tuple[list[int], list[int]]]) -> list[list[float]]:
    """For each prompt and continuation log p(token | prompt and the tokens before it), natural, float32.

    All in one pass, padded at their ends, where no earlier token sees it: a pass reads the model once.
    """
    longest = max(len(prompt) + len(said) for prompt, said in texts)
    rows = [[*prompt, *said, *[0] * (longest - len(prompt) - len(said))] for prompt, said in texts]
    places = [range(len(prompt) - 1, len(prompt) + len(said) - 1) for prompt, said in texts]
    with _only(model.get_output_embeddings(), places):
        logits = model(input_ids=torch.tensor(rows), use_cache=False).logits
    return [
        logits[row, : len(said)]
        .float()
        .log_softmax(-1)
        .gather(-1, torch.tensor(said)[:, None])[:, 0]
        .tolist()
        for row, (_, said) in enumerate(texts)
    ]


@contextmanager
def _only(head: nn.Module, places: list[range]) -> Iterator[None]:
    """The output head sees these places of each row alone: all logits would take more room than a layer."""
    most = max(len(row) for row in places)
    index = torch.tensor([[*row, *[0] * (most - len(row))] for row in places])

    def choose(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][torch.arange(len(index))[:, None], index], *args[1:])

    hook = head.register_forward_pre_hook(choose, prepend=True)
    try:
        yield
    finally:
        hook.remove()


class _Weights:
    """A checkpoint's tensors by the names of the model's parameters."""

    def __init__(self, tensors: Iterable[Readable], model: PreTrainedModel) -> None:
        self._names = Names(model)
        self._groups: dict[str, Group[Readable]] = {}
        for group in self._names.group(tensors):
            self._groups |= dict.fromkeys(self._names.shapes(group), group)
        for head, source in model.all_tied_weights_keys.items():
            self._groups.setdefault(head, self._groups[source])
        self._ties = model.all_tied_weights_keys
        self._room = torch.empty(_AT_ONCE)

    def __contains__(self, parameter: str) -> bool:
        return parameter in self._groups

    def room(self, size: int) -> torch.Tensor:
        """For rows of one linear layer, until the next asks; a single row may be longer than `_AT_ONCE`."""
        return self._room[:size] if size <= len(self._room) else torch.empty(size)

    def read(self, parameter: str) -> torch.Tensor:
        """As it is stored, mapped where it can be."""
        group = self._groups[parameter]
        made = self._names.gather(group, (each.read() for each in group.tensors))
        return made[parameter if parameter in made else self._ties[parameter]]


def _stream(module: nn.Module, parameters: dict[str, str], weights: _Weights) -> None:
    if type(module) is nn.Linear:
        module.forward = _linear(parameters, weights)  # type: ignore[assignment, method-assign]
    elif type(module) is nn.Embedding:
        module.forward = _embedding(parameters["weight"], weights)  # type: ignore[assignment, method-assign]
    else:
        _fill_while_it_works(module, parameters, weights)


def _linear(parameters: dict[str, str], weights: _Weights) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(states: torch.Tensor) -> torch.Tensor:
        weight: Any = weights.read(parameters["weight"])
        rows = max(1, _AT_ONCE // weight.shape[1])
        made = states.new_empty(*states.shape[:-1], len(weight))
        for first in range(0, len(weight), rows):
            some = weight[first : first + rows]
            # In one place each time: else the heap grows with every layer.
            whole = weights.room(some.numel()).view(some.shape).copy_(some)
            made[..., first : first + rows] = functional.linear(states, whole)
        return made if "bias" not in parameters else made.add_(weights.read(parameters["bias"]).float())

    return forward


def _embedding(parameter: str, weights: _Weights) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda ids: functional.embedding(ids, weights.read(parameter)).float()


def _fill_while_it_works(module: nn.Module, parameters: dict[str, str], weights: _Weights) -> None:
    empty = {own: module._parameters[own] for own in parameters}

    def fill(*_: object) -> None:
        for own, name in parameters.items():
            module._parameters[own] = nn.Parameter(weights.read(name).float(), requires_grad=False)

    def forget(*_: object) -> None:
        module._parameters.update(empty)

    module.register_forward_pre_hook(fill)
    module.register_forward_hook(forget, always_call=True)
