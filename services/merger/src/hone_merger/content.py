"""What a merge writes: a model that is fused tensor by tensor, or whole weights that are taken over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from hone_contract.events import Reporter
from hone_contract.probes import Logprobs, Probe
from hone_merger.checking import check_samples
from hone_merger.fusing.checkpoint import main_dtype, stored_tensors
from hone_merger.fusing.layout import Layout
from hone_merger.fusing.shards import Shard, room_for, share_out, write_shards
from hone_merger.plan import Plan
from hone_merger.qlora import Choice, choose_base
from hone_merger.settings import write_config, write_generation_config
from hone_merger.weights import copy_weights, fit_weights, weights_files


class Content(Protocol):
    """Weights and configuration of the model that will be, planned and found possible."""

    goes_on: ClassVar[bool]
    """Whether `write` makes use of what a killed merge left, and removes what it has no use for."""

    @property
    def size(self) -> int:
        """Bytes of its weights, as `write` tells them."""

    @property
    def room(self) -> int:
        """Bytes that their files take on the disk."""

    @property
    def measured(self) -> Mapping[str, object]:
        """What its bytes depend on beside the plan: a measurement may come out otherwise after a kill."""

    def expected(self, probe: Probe) -> Logprobs:
        """What the model is to make of a probe, but for rounding."""

    def write(self, folder: Path, wrote: Callable[[int], None]) -> dict[str, str]:
        """Write it; SHA-256 (hex) of the files that were hashed meanwhile. `wrote` is told of bytes."""

    def check(self, folder: Path) -> Mapping[str, object]:
        """Compare what was written with what it was made from. Raises BadInput when it is not that."""


def plan_content(plan: Plan, reporter: Reporter) -> Content:
    """Raises BadInput when the parts do not fit together; nothing was written then."""
    return TakenOver.of(plan) if plan.kind == "weights" else Fused.of(plan, reporter)


@dataclass(frozen=True)
class Fused:
    """An adapter and its base."""

    goes_on: ClassVar[bool] = True
    base: Path
    adapter: Path
    choice: Choice
    shards: list[Shard]
    size: int

    @classmethod
    def of(cls, plan: Plan, reporter: Reporter) -> "Fused":
        choice = choose_base(plan, reporter)
        shards = share_out(choice.layout.outputs)
        return cls(plan.base.path, plan.tuned.path, choice, shards, sum(shard.size for shard in shards))

    @property
    def layout(self) -> Layout:
        return self.choice.layout

    @property
    def room(self) -> int:
        return room_for(self.shards)

    @property
    def measured(self) -> Mapping[str, object]:
        return {"dequantized": self.choice.dequantized}

    def expected(self, probe: Probe) -> Logprobs:
        return probe.adapter if probe.trained is None or not self.choice.dequantized else probe.trained

    def write(self, folder: Path, wrote: Callable[[int], None]) -> dict[str, str]:
        digests = write_shards(self.shards, folder, wrote)
        layout = self.layout
        write_config(
            self.base, folder, dtype=layout.dtype, vocabulary=layout.vocabulary, untied=layout.untied
        )
        write_generation_config([self.base], folder)
        return digests

    def check(self, folder: Path) -> Mapping[str, object]:
        return {
            "tensors": len(self.layout.outputs),
            "changed_parameters": self.layout.changed,
            "head_was_untied": self.layout.untied,
            **self.choice.told,
            **check_samples(self.layout, self.adapter, folder),
        }


@dataclass(frozen=True)
class TakenOver:
    """What full fine-tuning made."""

    goes_on: ClassVar[bool] = False
    base: Path
    weights: Path
    dtype: torch.dtype
    size: int

    @classmethod
    def of(cls, plan: Plan) -> "TakenOver":
        fit_weights(plan.tuned.path, plan.base.path)
        dtype = main_dtype(stored_tensors(plan.tuned.path))
        size = sum(path.stat().st_size for path in weights_files(plan.tuned.path))
        return cls(plan.base.path, plan.tuned.path, dtype, size)

    @property
    def room(self) -> int:
        return self.size

    @property
    def measured(self) -> Mapping[str, object]:
        return {}

    def expected(self, probe: Probe) -> Logprobs:
        return probe.adapter

    def write(self, folder: Path, wrote: Callable[[int], None]) -> dict[str, str]:
        copy_weights(self.weights, folder)
        wrote(self.size)
        write_config(self.base, folder, dtype=self.dtype)
        write_generation_config([self.weights, self.base], folder)
        return {}

    def check(self, folder: Path) -> Mapping[str, object]:
        return {"tensors": len(stored_tensors(folder))}
