"""What this machine has to train on, and what GPUs there are to be had."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Device:
    """Where a process would train."""

    name: str
    on_gpu: bool
    memory: int
    """Bytes that it may use: of one GPU, or of the machine's memory, less if a container has a limit."""
    count: int = 1
    """How many GPUs there are, each with a process that trains, or how many processes on CPUs."""


@dataclass(frozen=True)
class Card:
    """A class of GPUs, by their memory."""

    size: str
    names: str
    memory: int
    """Bytes that a process finds on the smallest of them: some keep a part for error correction."""


CARDS = (
    Card("24 GB", "RTX 4090, RTX 3090, L4, A10", 24_150_000_000),
    Card("48 GB", "L40S, RTX 6000 Ada, A6000", 47_800_000_000),
    Card("80 GB", "H100, A100", 84_900_000_000),
    Card("141 GB", "H200", 150_100_000_000),
)


def shared_by(device: Device, processes: int, here: int) -> Device:
    """What each of so many processes has of it, `here` of them on this machine.

    That is a GPU of its own, or a part of the memory.
    """
    memory = device.memory if device.on_gpu else device.memory // here
    return replace(device, memory=memory, count=processes)


def this_device() -> Device:
    """The GPUs that this process sees, the smallest counting, else the CPU."""
    if not torch.cuda.is_available():
        return Device("this machine's CPU", False, _memory())
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    smallest = min(found, key=lambda each: each.total_memory)
    return Device(smallest.name, True, smallest.total_memory, len(found))


def _memory() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *cgroup_limits(_CGROUPS, Path("/proc/self/cgroup"))])


def cgroup_limits(root: Path, own: Path) -> list[int]:
    """The limits in bytes that a container, or a unit of the system, sets for this process.

    Of cgroup v2 (`memory.max` of the process's group and all above it) and v1 (`memory.limit_in_bytes`).
    """
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            folder, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        path = folder / group.lstrip("/")
        # In a container the path may be the host's; what holds for the container then lies at the root.
        for level in [path, *path.parents]:
            if level.is_relative_to(folder) and (text := _read(level / name)).isdecimal():
                limits.append(int(text))
    return limits


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
