"""What the reconcile loop asks of a launcher, whatever runs the stages.

A stage is one run of one command. Its name is its job's id and a count, so that it is begun once however
often it is asked for; what became of it is known until it is forgotten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


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
