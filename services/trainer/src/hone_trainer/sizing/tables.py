"""An estimate, for people and for machines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from hone_contract.run_spec import Method
from hone_trainer.sizing.estimate import Estimate, readable
from hone_trainer.sizing.machine import CARDS
from hone_trainer.sizing.memory import Memory

_NAMES, _NUMBERS = 46, 14


def as_json(found: Estimate) -> str:
    """Everything, sizes in bytes."""
    value = asdict(found)
    for place in ("here", "on_gpu"):
        for method, memory in getattr(found, place).items():
            value[place][method]["total"] = memory.total
    value["disk"]["total"] = found.disk.total
    return json.dumps(value | {"fits": found.fits}, indent=2)


def as_text(found: Estimate) -> str:
    """Tables for a terminal, the run's own method marked."""
    trained = {method: f"{count:,}" for method, count in found.trainable.items()}
    shares = {method: f"{_share(found, method):.1%}" for method in found.trainable}
    marked = {method: f"*{method}" if method == found.method else method for method in found.trainable}
    device = found.device
    each = f"each of {device.count} × " if device.count > 1 else ""
    lines = [
        f"run {found.run_id} on {found.base}, {found.parameters:,} parameters",
        "",
        _row("", marked),
        _row("trained parameters", trained),
        _row("their share", shares),
        *_memory(f"memory on {each}{device.name}, {readable(device.memory)}", found.here),
        *([] if device.on_gpu else _memory("memory on a GPU", found.on_gpu)),
        *_gpus(found),
        *_work(found),
        *_disk(found),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _share(found: Estimate, method: Method) -> float:
    trained = found.trainable[method]
    return trained / (found.parameters + (trained if method != "full" else 0))


def _row(name: str, values: Mapping[Method, str]) -> str:
    return f"{name:{_NAMES}}" + "".join(f"{value:>{_NUMBERS}}" for value in values.values())


def _memory(title: str, memories: Mapping[Method, Memory]) -> list[str]:
    parts = [field.name for field in fields(Memory)] + ["total"]
    return ["", title] + [
        _row(f"  {part}", {method: readable(getattr(each, part)) for method, each in memories.items()})
        for part in parts
    ]


def _gpus(found: Estimate) -> list[str]:
    def told(count: int | None) -> str:
        return "none" if count is None else str(count)

    return ["", "GPUs needed (several: with training.sharding: full)"] + [
        _row(f"  {card.size} ({card.names})", {m: told(count) for m, count in found.gpus[card.size].items()})
        for card in CARDS
    ]


def _work(found: Estimate) -> list[str]:
    work = found.work
    pairs = found.objective == "dpo"
    kind, twice = ("pairs  ", ", each also read by the base") if pairs else ("records", "")
    return [
        "",
        f"{kind}    {work.records:,} to learn from, {work.evaluation_records:,} set aside; "
        f"the longest has {work.longest:,} tokens",
        f"steps      {work.steps:,}, of {work.records_a_step:,} records"
        + (f" on each of {found.device.count} GPUs" if found.device.count > 1 else ""),
        f"tokens     {work.tokens_an_epoch:,} an epoch, {work.tokens:,} in all{twice}",
    ]


def _disk(found: Estimate) -> list[str]:
    disk = found.disk
    parts: list[tuple[str, Any]] = [
        ("result", disk.result),
        (f"{disk.checkpoints} checkpoints", disk.checkpoints * disk.checkpoint),
        ("tokens", disk.tokens),
        ("merged model", disk.merged),
    ]
    told = ", ".join(f"{name} {readable(size)}" for name, size in parts)
    return [f"disk       {readable(disk.total)}: {told}; {readable(found.disk_free)} are free"]
