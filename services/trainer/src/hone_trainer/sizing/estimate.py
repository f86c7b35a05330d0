"""What a run will take before it takes it: memory, GPUs, steps, tokens and disk."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

from hone_contract.errors import BadConfiguration
from hone_contract.run_spec import Method, RunSpec
from hone_trainer.plan import Plan
from hone_trainer.sizing.disk import Disk, disk
from hone_trainer.sizing.machine import CARDS, Device, this_device
from hone_trainer.sizing.memory import Memory, Setting, memory
from hone_trainer.sizing.shapes import Shapes, read_shapes
from hone_trainer.sizing.trainable import Trainable, adapters, everything
from hone_trainer.sizing.workload import Workload, workload
from hone_trainer.training.batches import recomputes

METHODS: tuple[Method, ...] = get_args(Method)
_MOST_GPUS = 64
# What a GPU's allocator cannot hand out, being in pieces.
_USABLE = 0.95
# A change is worth telling when it takes less than this share.
_LESS = 0.97


@dataclass(frozen=True)
class Estimate:
    """What a run will take, by its own method and by the others that could train it.

    The base's forward pass over preference pairs comes before the one that is kept for the backward pass, and
    leaves two numbers a pair: it takes time, and no memory that the other would not take.
    """

    run_id: str
    base: str
    method: Method
    objective: str
    parameters: int
    """Of the base."""
    trainable: dict[Method, int]
    """Parameters that each method trains."""
    device: Device
    here: dict[Method, Memory]
    """On this machine, of each process."""
    on_gpu: dict[Method, Memory]
    """On a GPU, where more is computed in 16 bits and less is kept."""
    gpus: dict[str, dict[Method, int | None]]
    """How many GPUs of each size; None: more than 64, or weights in 4 bits that do not fit on one."""
    work: Workload
    disk: Disk
    disk_free: int

    @property
    def fits(self) -> bool:
        """Whether each process has the memory that it takes."""
        return self.here[self.method].total <= self.device.memory


def methods_of(spec: RunSpec) -> tuple[Method, ...]:
    """Those that could train it: DPO compares with the base, which method: full would overwrite."""
    return ("lora", "qlora") if spec.objective == "dpo" else METHODS


def estimate(plan: Plan, device: Device | None = None) -> Estimate:
    """Read from headers, reports and the machine; nothing is loaded. None: the device of this process."""
    device = device or this_device()
    sizes = _Sizes.of(plan, device)
    methods = methods_of(plan.spec)
    on_gpu = {method: sizes.whole(_by(plan.spec, method), on_gpu=True) for method in methods}
    return Estimate(
        run_id=plan.run_id,
        base=plan.base.manifest.id,
        method=plan.spec.method,
        objective=plan.spec.objective,
        parameters=sizes.shapes.parameters,
        trainable={method: sizes.trainable(_by(plan.spec, method)).count for method in methods},
        device=device,
        here={method: sizes.memory(_by(plan.spec, method), device.on_gpu) for method in methods},
        on_gpu=on_gpu,
        gpus={
            card.size: {method: _gpus(method, on_gpu[method], card.memory) for method in methods}
            for card in CARDS
        },
        work=sizes.work,
        disk=disk(plan.spec, sizes.trainable(plan.spec), sizes.work, plan.base.manifest),
        disk_free=shutil.disk_usage(plan.base.path).free,
    )


def check_fits(plan: Plan, device: Device | None = None) -> None:
    """Raises BadConfiguration when the run takes more memory than the device has. None: this process's."""
    found = estimate(plan, device)
    if not found.fits:
        raise BadConfiguration(
            f"run {plan.run_id} does not fit: {found.device.name} has {readable(found.device.memory)} of "
            f"memory; {what_to_lower(plan, found.device)}"
        )


def what_to_lower(plan: Plan, device: Device | None = None) -> str:
    """One sentence: what the run takes on the device, and what it would take with other settings."""
    device = device or this_device()
    sizes = _Sizes.of(plan, device)
    now = sizes.memory(plan.spec, device.on_gpu).total
    others = [(change, then.total) for change, then in sizes.remedies(plan.spec, device.on_gpu)]
    told = [f"with {change} {readable(then)}" for change, then in others if then < _LESS * now]
    less = ", ".join(told) if told else "and no setting makes it much less; take a smaller base"
    return f"the run takes about {readable(now)}, {less}"


def readable(size: float) -> str:
    """Bytes for people: `1.5 GB`, of 10⁹ bytes each; less in MB or kB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= 0.9995 * unit:
            return f"{size / unit:.1f} {name}" if unit == 1e9 else f"{size / unit:.0f} {name}"
    return f"{size / 1e3:.0f} kB"


@dataclass(frozen=True)
class _Sizes:
    """A run's base and data, as far as what it takes depends on them."""

    shapes: Shapes
    work: Workload
    processes: int

    @classmethod
    def of(cls, plan: Plan, device: Device) -> "_Sizes":
        report = json.loads((plan.dataset.path / "report.json").read_text(encoding="utf-8"))
        return cls(read_shapes(plan.base.path), workload(plan.spec, report, device.count), device.count)

    def trainable(self, spec: RunSpec) -> Trainable:
        return everything(self.shapes) if spec.method == "full" else adapters(self.shapes, spec.lora)

    def memory(self, spec: RunSpec, on_gpu: bool) -> Memory:
        """Of each process."""
        whole = self.whole(spec, on_gpu)
        # Each reads the whole base into main memory before it is shared out: on CPUs that is where it stays.
        shared = spec.training.sharding == "full" and on_gpu and spec.method != "qlora"
        return whole.spread(self.processes) if shared else whole

    def whole(self, spec: RunSpec, on_gpu: bool) -> Memory:
        """Of one that shares nothing out."""
        return memory(self.shapes, self.trainable(spec), self.setting(spec, on_gpu))

    def setting(self, spec: RunSpec, on_gpu: bool) -> Setting:
        training, by_adapter = spec.training, spec.method != "full"
        wide = training.dtype == "float32" or (training.dtype == "auto" and not on_gpu)
        return Setting(
            method=spec.method,
            on_gpu=on_gpu,
            number=4 if wide else 2,
            tokens=self.work.largest_pass(training, on_gpu),
            checkpointing=recomputes(training, on_gpu),
            eight_bit=training.optimizer == "adamw_8bit",
            dropout=by_adapter and spec.lora.dropout > 0,
            dora=by_adapter and spec.lora.use_dora,
        )

    def remedies(self, spec: RunSpec, on_gpu: bool) -> Iterator[tuple[str, Memory]]:
        """Changes and what the run takes with each; first those that change the result least."""
        now = self.setting(spec, on_gpu)
        changes: list[dict[str, Any]] = []
        splits = spec.training.sharding == "full"
        if self.processes > 1 and on_gpu and spec.method != "qlora" and not (splits or now.eight_bit):
            changes.append({"sharding": "full"})
        if not now.checkpointing:
            changes.append({"gradient_checkpointing": True})
        if spec.training.packing is False:
            changes.append({"batch_size": 1})
        alone = self.work.longest_alone(spec.training)
        changes += [{"tokens_per_pass": max(alone, now.tokens // part)} for part in (2, 4)]
        if not (now.eight_bit or splits):
            changes.append({"optimizer": "adamw_8bit"})
        for change in changes:
            [(name, value)] = change.items()
            training = spec.training.model_copy(update=change)
            told = f"training.{name}: {str(value).lower()}"
            yield told, self.memory(spec.model_copy(update={"training": training}), on_gpu)
        yield from self._without_the_longest(spec, on_gpu)
        for method in METHODS[: METHODS.index(spec.method)] if spec.method == "full" else ("qlora",):
            yield f"method: {method}", self.memory(_by(spec, method), on_gpu)

    def _without_the_longest(self, spec: RunSpec, on_gpu: bool) -> Iterator[tuple[str, Memory]]:
        """A record longer than `tokens_per_pass` has a pass of its own, which then is the largest."""
        if self.setting(spec, on_gpu).tokens > self.work.longest_alone(spec.training):
            return
        limit = self.work.longest_conversation // 2
        sizes = replace(self, work=self.work.limited(limit))
        training = spec.training.model_copy(update={"tokens_per_pass": self.work.conversations * limit})
        told = f"data.max_tokens: {limit}, which leaves longer records out,"
        yield told, sizes.memory(spec.model_copy(update={"training": training}), on_gpu)


def _by(spec: RunSpec, method: Method) -> RunSpec:
    return spec.model_copy(update={"method": method})


def _gpus(method: Method, one: Memory, each: int) -> int | None:
    """How many GPUs with so many bytes: one, or as many as share weights, gradients and averages (FSDP)."""
    room = _USABLE * each - (one.total - one.shardable)
    if one.shardable <= room:
        return 1
    if method == "qlora" or room <= 0:
        return None
    count = math.ceil(one.shardable / room)
    return count if count <= _MOST_GPUS else None
