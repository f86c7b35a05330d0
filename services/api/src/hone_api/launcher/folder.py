"""What is kept of one stage, and how its keeper and any number of apis agree on it without talking.

They rely on what a kernel gives for nothing: a rename is whole, and a lock ends with its process. The lock
is of the POSIX kind (fcntl), since others can look at it without taking it: whoever tried an flock, to see
whether a stage runs, would turn a keeper away that came at that moment.

Written by whoever begins: `command.json`, at most once. By whoever stops: `stop`. By the keeper alone, and
only while it holds `lock`: `begun`, before the command runs, which becomes `exit.json` when it has ended.
"""

import fcntl
import json
import os
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MARK = "HONE_STAGE"
"""In the environment of all that a stage runs: its folder. It shows what a killed keeper left behind."""
_FLOCK = "hhqqi4x"
"""`struct flock` of 64-bit Linux: kind, whence, start, length, holder."""
_ROOM = 64
"""Bytes, and more than any exit code needs."""

Standing = Literal["absent", "running", "ended", "lost"]


@dataclass(frozen=True)
class Folder:
    """Of one stage."""

    path: Path

    @property
    def output(self) -> Path:
        return self.path / "output.log"

    def write_command(self, told: dict[str, Any]) -> None:
        """What is there stays: a stage's command is what it was first."""
        if not self._command.exists():
            _write_whole(self._command, json.dumps(told))

    def command(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._command.read_text(encoding="utf-8"))
        return told

    def ask_to_stop(self) -> None:
        """Lasts, unlike a signal: a keeper that comes only now finds it too."""
        os.close(os.open(self._stop, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def is_asked_to_stop(self) -> bool:
        """Or is gone: nobody could find it any more. A file system that fails for a while says nothing."""
        try:
            return self._stop.exists() or not self._command.exists()
        except OSError:
            return False

    def holder(self) -> int | None:
        """The keeper's process id; 0: of a container that shares this folder. None: nobody keeps it.

        Never for a keeper: to close the lock's file, however often it is open, is to give up the lock.
        """
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, holder = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        finally:
            os.close(descriptor)
        return None if kind == fcntl.F_UNLCK else int(holder)

    def standing(self) -> Standing:
        """The order is all: `begun` before the lock, or a keeper that comes in between would seem lost; and
        `exit.json` after it, since a keeper writes that before it leaves.
        """
        if self._exit.exists():
            return "ended"
        begun = self._begun.exists()
        if self.holder() is not None:
            return "running"
        if self._exit.exists():
            return "ended"
        return "lost" if begun else "absent"

    def code(self) -> int | None:
        """Of a stage that has ended."""
        with suppress(ValueError, OSError):
            code = json.loads(self._exit.read_text(encoding="utf-8"))["code"]
            return int(code) if code is not None else None
        return None

    def lock(self) -> bool:
        """Take it for as long as this process lives. False: another one has it."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX lets a system choose which
            return False
        return True

    def is_new(self) -> bool:
        """Whether there is something to run that never ran. Meaningful to whoever has the lock."""
        return self._command.exists() and not self._begun.exists() and not self._exit.exists()

    def mark_begun(self) -> None:
        """From now on, nobody runs it again. It has room for the code, should the disk be full then."""
        _write_whole(self._begun, " " * _ROOM)

    def mark_ended(self, code: int) -> None:
        descriptor = os.open(self._begun, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, json.dumps({"code": code}).ljust(_ROOM).encode(), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._begun.rename(self._exit)

    def mark_lost(self) -> None:
        """For whoever finds it so, and has ended what was left of it."""
        _write_whole(self._exit, json.dumps({"code": None}))

    @property
    def _command(self) -> Path:
        return self.path / "command.json"

    @property
    def _begun(self) -> Path:
        return self.path / "begun"

    @property
    def _exit(self) -> Path:
        return self.path / "exit.json"

    @property
    def _stop(self) -> Path:
        return self.path / "stop"

    @property
    def _lock(self) -> Path:
        return self.path / "lock"


def _write_whole(path: Path, text: str) -> None:
    """All of it or nothing, for this user's eyes only."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with open(partial, "w", encoding="utf-8", opener=_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
