"""What is kept here of a stage that runs in a cluster: that it was begun there, and how it ended.

A Job may go at any time, by its time to live or by hand. Without the first mark nobody could tell a stage
whose Job is gone from one that never was; without the last, how it ended would be lost with its Job.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import write_atomically

_BEGUN, _STOPPED, _EXIT = "begun", "stop", "exit.json"


@dataclass(frozen=True)
class Exit:
    """Of a stage that has ended; `code` is None when it was lost."""

    code: int | None
    note: str


@dataclass(frozen=True)
class Marks:
    """One folder for each stage, of which the api is the only writer."""

    path: Path

    @property
    def output(self) -> Path:
        return self.path / "output.log"

    @property
    def is_begun(self) -> bool:
        return (self.path / _BEGUN).exists()

    @property
    def is_stopped(self) -> bool:
        return (self.path / _STOPPED).exists()

    @property
    def exit(self) -> Exit | None:
        """None: it has not ended."""
        try:
            told = json.loads((self.path / _EXIT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Exit(told["code"], told["note"])

    def mark_begun(self) -> None:
        """After its Job was seen, so that a stage that never was in the cluster is never taken for lost."""
        self._mark(_BEGUN)

    def mark_stopped(self) -> None:
        self._mark(_STOPPED)

    def mark_ended(self, code: int | None, note: str) -> None:
        write_atomically(self.path / _EXIT, json.dumps({"code": code, "note": note}))

    def forget(self) -> None:
        # Without this one, what is left of a removal that was cut off would look like a stage that was lost.
        (self.path / _BEGUN).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.path.parent.rmdir()

    def _mark(self, name: str) -> None:
        if not (self.path / name).exists():
            write_atomically(self.path / name, "")
