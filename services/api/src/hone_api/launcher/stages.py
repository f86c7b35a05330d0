"""What the reconcile loop asks of a launcher, whatever runs the stages.

A stage is one run of one command. Its name is its job's id and a count, so that it is begun once however
often it is asked for; what became of it is known until it is forgotten.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_NAME = re.compile(f"{_PART}/{_PART}")


@dataclass(frozen=True)
class Command:
    """What a stage runs."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what every stage has."""
    reads: Sequence[Path] = ()
    """Files and folders of the api's data that it reads; a launcher may show it no others."""
    writes: Sequence[Path] = ()
    """Folders of the api's data that it writes to."""


@dataclass(frozen=True)
class State:
    """Where a stage stands."""

    state: Literal["absent", "running", "ended"]
    code: int | None = None
    """Of one that ended. None: it was lost, with its machine or by force, and nobody knows how far it was."""
    note: str = ""
    """For people: what it waits for, or why it was lost. What stands before a colon is what is so; the rest
    may change from one look to the next."""

    @property
    def waits_for(self) -> str:
        """What is so of its note; empty for a stage that waits for nothing, or has ended."""
        return self.note.partition(":")[0] if self.state != "ended" else ""


class Launcher(Protocol):
    """Begins stages, and finds them again after a restart of the api."""

    def begin(self, name: str, command: Command) -> None:
        """Does nothing for a stage that was begun before."""

    def state(self, name: str) -> State: ...

    def stop(self, name: str) -> None:
        """Ask it to end, which takes a checkpoint's time; who does not end is ended."""

    def output(self, name: str) -> Path:
        """What it wrote to standard output and error."""

    def forget(self, name: str) -> None:
        """Remove what is kept of a stage that has ended. Raises RuntimeError for one that runs."""

    def names(self, job: str) -> list[str]:
        """Of a job's stages that are not forgotten."""


def is_name(name: str) -> bool:
    """Whether it is one of a stage, and so of a folder."""
    return _NAME.fullmatch(name) is not None


def folder_of(root: Path, name: str) -> Path:
    """Where a launcher keeps what it knows of a stage. Raises ValueError."""
    if not is_name(name):
        raise ValueError(f"{name!r} is no stage's name; it is <job>/<stage> of letters, digits, ., _ and -")
    return root / name


def names_in(root: Path, job: str) -> list[str]:
    """Of a job's stages that have such a folder."""
    found = (f"{job}/{path.name}" for path in (root / job).glob("*") if path.is_dir())
    return sorted(name for name in found if is_name(name))
