"""Every tensor of the merged model, planned before the first is made."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from threading import Lock

import torch

from hone_contract.errors import BadInput
from hone_merger.fusing.changes import Change, check_all_are_found, find_changes
from hone_merger.fusing.checkpoint import StoredTensor, main_dtype, stored_tensors
from hone_merger.fusing.four_bits import Dequantized, Rounding, parameters_in_4_bits
from hone_merger.fusing.names import Group, Names
from hone_merger.fusing.pieces import pieces
from hone_merger.fusing.skeleton import ADAPTER, adapter_skeleton, base_skeleton

# Bytes of one part: so many that handing parts from thread to thread costs nothing.
ROOM = 4 * 2**20

Part = Callable[[torch.Tensor], torch.Tensor]
"""Makes some elements of a tensor, one after the other in memory; the room of `ROOM` bytes that it is given
may hold them, and is its own until they were used."""


@dataclass(frozen=True)
class Output:
    """One tensor of the merged model."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    """Each makes the next of its elements; they may be called in any order, from any thread."""
    parameter: str = ""
    """The model's name for it. Empty: it is a part of a parameter, or none."""
    stored: StoredTensor | None = None
    """What it is made from, if that is one tensor."""
    change: Change | None = None
    """None: it is what is stored, or a part of a parameter."""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> torch.Tensor:
        """The whole tensor, made as it would be written."""
        made = [part(torch.empty(ROOM, dtype=torch.uint8)).reshape(-1) for part in self.parts]
        return torch.cat(made).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """What the merged model is going to be."""

    outputs: list[Output]
    changed: int
    """How many parameters of the base the adapter changes."""
    vocabulary: int
    """Rows of the embeddings."""
    untied: bool
    """Whether the output head, which is the base's embeddings, became one of its own."""
    dtype: torch.dtype
    """Of most of the elements."""


def plan_layout(
    base: Path, adapter: Path, dtype: torch.dtype | None = None, *, dequantized: bool = False
) -> Layout:
    """Match base and adapter, reading the headers of the one and all of the other.

    `dtype` is what floating-point tensors are written in; None: what each of them is in the base.
    `dequantized`: the adapter is added to what 4 bits leave of the base (QLoRA).
    Raises BadInput unless the base is whole, and every tensor of the adapter has its one place in it.
    """
    model = base_skeleton(base, adapter)
    names, ties = Names(model), dict(model.all_tied_weights_keys)
    rounded = parameters_in_4_bits(model) if dequantized else {}
    vocabulary = model.get_input_embeddings().weight.shape[0]
    groups, apart = _settle_sources(names.group(stored_tensors(base)), ties)
    ties = {head: source for head, source in ties.items() if head not in apart}
    skeleton = adapter_skeleton(model, adapter)
    changes = find_changes(skeleton, list(names.parameters))
    check_all_are_found(skeleton, changes, adapter)
    changes, untied = _settle_ties(changes, ties, skeleton.peft_config[ADAPTER].ensure_weight_tying)
    planner = _Planner(names, changes, rounded, dtype)
    outputs = [output for group in groups.values() for output in planner.outputs(group)]
    outputs += [planner.untied(head, groups[ties[head]]) for head in untied]
    planner.check_whole(base, ties)
    return Layout(
        outputs,
        changed=len(changes),
        vocabulary=vocabulary,
        untied=bool(untied or apart),
        dtype=main_dtype(outputs),
    )


def _settle_sources(
    groups: list[Group[StoredTensor]], ties: Mapping[str, str]
) -> tuple[dict[str, Group[StoredTensor]], set[str]]:
    """One group for parameters that are tied: a checkpoint may have either of them, or both.

    And the heads that a checkpoint has beside other embeddings: transformers does not tie those, whatever its
    config.json says (`PreTrainedModel.tie_weights`).
    """
    found, apart = {group.key: group for group in groups}, set()
    for head, source in ties.items():
        if head not in found:
            continue
        if source not in found:
            found[source] = replace(found.pop(head), key=source)
        elif torch.equal(found[head].tensors[0].read(), found[source].tensors[0].read()):
            del found[head]
        else:
            apart.add(head)
    return found, apart


def _settle_ties(
    changes: Mapping[str, Change], ties: Mapping[str, str], ensured: bool
) -> tuple[dict[str, Change], list[str]]:
    """What the adapter makes of tied parameters, and which heads cannot stay tied.

    PEFT's merge adds what is for one of them to both. Here each becomes what the adapter model has there.
    """
    settled, untied = dict(changes), []
    for head, source in ties.items():
        ours, theirs = settled.pop(head, None), settled.get(source)
        # PEFT ties what it adds to the embeddings; what it adds to the head alone stays there.
        if not ((ensured and theirs is not None) or _alike(ours, theirs)):
            untied.append(head)
            shared = theirs.instead if theirs is not None and not theirs.apart else None
            settled[head] = Change(
                shared if ours is None or ours.instead is None else ours.instead,
                None if ours is None else ours.layer,
                "weight",
            )
    return settled, untied


def _alike(head: Change | None, source: Change | None) -> bool:
    if head is None:
        return source is None or (source.layer is None and not source.apart)
    if source is None:
        return False
    if head.instead is None or source.instead is None or head.layer or source.layer:
        return head.follows(source)
    return torch.equal(head.instead, source.instead)


class _Planner:
    """Says how each tensor is made, and notices what is missing."""

    def __init__(
        self,
        names: Names,
        changes: Mapping[str, Change],
        rounded: Mapping[str, Rounding],
        dtype: torch.dtype | None,
    ) -> None:
        self._names, self._changes, self._rounded, self._dtype = names, changes, rounded, dtype
        self._found: set[str] = set()

    def outputs(self, group: Group[StoredTensor]) -> list[Output]:
        """The tensors of a group, each under its stored name."""
        made = self._names.shapes(group)
        self._check_shapes(group, made)
        self._found |= made.keys()
        if not made.keys() & (self._changes.keys() | self._rounded.keys()):
            return [self._copied(stored, stored.name) for stored in group.tensors]
        if group.patterns:
            return self._together(group)
        [stored] = group.tensors
        if (rounding := self._rounded.get(group.key)) is not None:
            stored = Dequantized.of(stored, rounding)
        if group.key not in self._changes:
            return [self._copied(stored, stored.name)]
        return [self._changed(stored, stored.name, group.key)]

    def untied(self, head: str, source: Group[StoredTensor]) -> Output:
        """A head of its own, for a base that has the embeddings only."""
        name, change = self._names.stored_name(head), self._changes[head]
        if change.changes_nothing:
            return self._copied(source.tensors[0], name)
        return self._changed(source.tensors[0], name, head)

    def check_whole(self, base: Path, ties: Mapping[str, str]) -> None:
        """Raises BadInput when the base lacks a parameter."""
        if missing := sorted(self._names.parameters.keys() - self._found - ties.keys()):
            raise BadInput(
                f"{base} lacks {missing[0]} ({len(missing)} such), which a model of its config.json has; "
                "import the base again"
            )

    def _check_shapes(self, group: Group[StoredTensor], made: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in made.items():
            expected, change = self._names.parameters.get(name), self._changes.get(name)
            replaced = change is not None and change.instead is not None
            if expected is not None and shape != expected and not replaced:
                raise BadInput(
                    f"{group.tensors[0].file}: {name} has the shape {shape}, and by the base's config.json "
                    f"it is {expected}; import the base again"
                )

    def _copied(self, stored: StoredTensor, name: str) -> Output:
        dtype = self._written(stored.dtype)
        parts = tuple(_copied_rows(stored, rows, dtype) for rows in _ranges(stored))
        return Output(name, dtype, stored.shape, parts)

    def _changed(self, stored: StoredTensor, name: str, parameter: str) -> Output:
        change, dtype, shape = self._changes[parameter], self._written(stored.dtype), stored.shape
        work = torch.promote_types(stored.read_as, dtype)
        parts: tuple[Part, ...]
        if change.by_rows:
            parts = tuple(_folded_rows(change, stored, rows, work, dtype) for rows in _ranges(stored))
        elif change.instead is not None:
            parts, shape = (_replaced(change, work, dtype),), tuple(change.instead.shape)
        else:
            parts = (_folded(change, stored, work, dtype),)
        return Output(name, dtype, shape, parts, parameter, stored, change)

    def _together(self, group: Group[StoredTensor]) -> list[Output]:
        shared = _Together(self._names, group, self._changes, self._rounded, self._written)
        return [
            Output(stored.name, self._written(stored.dtype), stored.shape, (shared.part(stored.name),))
            for stored in group.tensors
        ]

    def _written(self, stored: torch.dtype) -> torch.dtype:
        return self._dtype if self._dtype is not None and stored.is_floating_point else stored


class _Together:
    """Tensors that can only be made at once: made when the first is asked for, kept until each was."""

    def __init__(
        self,
        names: Names,
        group: Group[StoredTensor],
        changes: Mapping[str, Change],
        rounded: Mapping[str, Rounding],
        written: Callable[[torch.dtype], torch.dtype],
    ) -> None:
        self._names, self._group, self._written = names, group, written
        self._changes, self._rounded = changes, rounded
        self._made: dict[str, torch.Tensor] = {}
        self._lock = Lock()

    def part(self, name: str) -> Part:
        """The tensor of that stored name, to be asked for once."""

        def take(_: torch.Tensor) -> torch.Tensor:
            with self._lock:
                if name not in self._made:
                    self._made = self._make()
                return self._made.pop(name)

        return take

    def _make(self) -> dict[str, torch.Tensor]:
        stored = self._group.tensors
        work = [torch.promote_types(each.dtype, self._written(each.dtype)) for each in stored]
        read = (each.read().to(dtype, copy=True) for each, dtype in zip(stored, work, strict=True))
        parameters = self._names.gather(self._group, read)
        for name in parameters.keys() & self._rounded.keys():
            parameters[name] = self._rounded[name](parameters[name])
        for name in parameters.keys() & self._changes.keys():
            parameters[name] = self._changes[name].apply(parameters[name])
        made = self._names.scatter(self._group, parameters)
        return {each.name: made[each.name].to(self._written(each.dtype)).contiguous() for each in stored}


def _copied_rows(stored: StoredTensor, rows: slice, dtype: torch.dtype) -> Part:
    return lambda _: stored.rows(rows).to(dtype)


def _folded_rows(
    change: Change, stored: StoredTensor, rows: slice, work: torch.dtype, dtype: torch.dtype
) -> Part:
    def make(room: torch.Tensor) -> torch.Tensor:
        weights = stored.rows(rows)
        size = weights.numel() * work.itemsize
        fits = size <= len(room)
        made = room[:size].view(work).view(weights.shape) if fits else torch.empty(weights.shape, dtype=work)
        return change.apply_to_rows(weights, rows.start, made).to(dtype)

    return make


def _folded(change: Change, stored: StoredTensor, work: torch.dtype, dtype: torch.dtype) -> Part:
    return lambda _: change.apply(stored.read().to(work, copy=True)).to(dtype).contiguous()


def _replaced(change: Change, work: torch.dtype, dtype: torch.dtype) -> Part:
    # Only the format of the base's own counts.
    return lambda _: change.apply(torch.empty(0, dtype=work)).to(dtype).contiguous()


def _ranges(stored: StoredTensor) -> Iterator[slice]:
    """Rows that fit into `ROOM` together, or a few that do not; a tensor of no dimension is one row."""
    rows = stored.shape[0] if stored.shape else 1
    if not stored.divisible:
        return iter([slice(0, rows)])
    return pieces(rows, ROOM * rows // max(1, stored.size))
