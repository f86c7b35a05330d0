"""Which parameters the tensors of a checkpoint are: transformers' own rules, there and back.

Most tensors are a parameter under its own name. Some are renamed, and some become a parameter together (the
experts of a mixture), or one becomes several (transformers/conversion_mapping.py).
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)


class Named(Protocol):
    """A tensor of a checkpoint, by the name that it has there."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


Tensor = TypeVar("Tensor", bound=Named)


@dataclass
class Group(Generic[Tensor]):
    """Tensors of a checkpoint that are one or more parameters together."""

    key: str
    """The name that transformers gives them: the first parameter's."""
    tensors: list[Tensor] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    """Of each tensor, where the group has a converter: the converter's pattern that matched it."""


class Names:
    """Made before PEFT wraps the model, whose layers have other names after."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.parameters: dict[str, tuple[int, ...]] = {
            name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
        }
        self._model = model
        self._state = model.state_dict()
        conversions = get_model_conversion_mapping(model)
        self._renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
        self._converters = [each for each in conversions if isinstance(each, WeightConverter)]
        # As `from_pretrained` leaves it: what was used to load is what `revert_weight_conversion` reverts.
        model._weight_conversions = conversions

    def group(self, tensors: Iterable[Tensor]) -> list[Group[Tensor]]:
        """In the order of each group's first tensor; within a group as transformers puts experts together."""
        groups: dict[str, Group[Tensor]] = {}
        for tensor in tensors:
            key, pattern = self._parameter(tensor.name)
            group = groups.setdefault(key, Group(key))
            group.tensors.append(tensor)
            if pattern is not None:
                group.patterns.append(pattern)
        for group in groups.values():
            if group.patterns:
                pairs = zip(group.tensors, group.patterns, strict=True)
                ordered = sorted(pairs, key=lambda pair: dot_natural_key(pair[0].name))
                group.tensors, group.patterns = map(list, zip(*ordered, strict=True))
        return list(groups.values())

    def gather(self, group: Group[Any], tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Parameters by name; `tensors` are the group's, in its order."""
        if not group.patterns:
            [tensor] = tensors
            return {group.key: tensor}
        converter = deepcopy(self._converter(group.patterns[0]))
        for stored, pattern, tensor in zip(group.tensors, group.patterns, tensors, strict=True):
            converter.add_tensor(group.key, stored.name, pattern, tensor)
        made = converter.convert(group.key, model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def shapes(self, group: Group[Any]) -> dict[str, tuple[int, ...]]:
        """Of the parameters that `gather` makes, without reading a tensor."""
        empty = (torch.empty(each.shape, dtype=each.dtype, device="meta") for each in group.tensors)
        return {name: tuple(tensor.shape) for name, tensor in self.gather(group, empty).items()}

    def scatter(self, group: Group[Any], parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The group's tensors by the checkpoint's names, of their stored shapes; the reverse of `gather`."""
        if not group.patterns:
            return {group.tensors[0].name: parameters[group.key]}
        made = revert_weight_conversion(self._model, dict(parameters))
        # transformers' SplitModulelist takes away every dimension of size 1.
        return {stored.name: made[stored.name].reshape(stored.shape) for stored in group.tensors}

    def stored_name(self, parameter: str) -> str:
        """What a checkpoint would call a parameter that it does not have."""
        [name] = revert_weight_conversion(self._model, {parameter: torch.empty(0, device="meta")})
        return str(name)

    def _parameter(self, name: str) -> tuple[str, str | None]:
        prefix = self._model.base_model_prefix
        key, pattern = rename_source_key(name, self._renamings, self._converters, prefix, self._state)
        if key not in self._state and name in self._state:
            return name, None
        return key, pattern

    def _converter(self, pattern: str) -> WeightConverter:
        return next(each for each in self._converters if pattern in each.source_patterns)
