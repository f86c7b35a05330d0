"""Runs one stage's command, and outlives the api: `python -m hone_api.launcher.keeper FOLDER [READY]`.

Begun as often as anyone likes, only one gets the folder's lock, and only the first of all runs the command.
What the command leaves behind is ended with it; should the keeper be killed, the kernel kills the command.

It is there for as long as a run trains, so it is small: the standard library, and one thread, which waits.
READY is the descriptor of a pipe, closed when the command runs, or never will.
"""

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hone_api.launcher.folder import MARK, Folder

_HANDED_ON = (signal.SIGTERM, signal.SIGINT)
_AWAITED = (*_HANDED_ON, signal.SIGCHLD)
_EVERY = 0.2
"""Seconds between looks at whether the stage is to stop."""
_NOT_FOUND, _NOT_RUN = 127, 126
"""As a shell has them."""
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    path, *ready = sys.argv[1:]
    # Before the lock: whoever sees that this keeper has it may signal it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    here = Path.cwd()
    try:
        # And not by its name from here on, which may come to be that of another, when this one is forgotten.
        os.chdir(path)
    except FileNotFoundError:
        return
    folder = Folder(Path())
    if folder.lock() and folder.is_new():
        keep(folder, path, here, [int(each) for each in ready])


def keep(folder: Folder, path: str, here: Path, ready: list[int]) -> None:
    """From the lock to the exit code."""
    command = folder.command()
    folder.mark_begun()
    _control(_SET_CHILD_SUBREAPER, 1)
    code = 128 + signal.SIGTERM
    if not folder.is_asked_to_stop():
        try:
            child = _begin(command, path, here)
        except OSError as error:
            _say(f"{command['arguments'][0]}: cannot be run: {error}")
            code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN
        else:
            for each in ready:
                os.close(each)
            code = _Stage(folder, child, float(command["stop_seconds"])).run()
    try:
        folder.mark_ended(code)
    except OSError as error:
        _say(f"exit code {code} cannot be kept: {error}")


class _Stage:
    """A command that runs, and all that it began."""

    def __init__(self, folder: Folder, child: int, stop_seconds: float) -> None:
        self.folder, self.child, self.stop_seconds = folder, child, stop_seconds
        self.deadline = math.inf
        self.asked = False

    def run(self) -> int:
        while (code := self._code()) is None:
            received = signal.sigtimedwait(_AWAITED, _EVERY)
            if received and received.si_signo in _HANDED_ON:
                self._stop(received.si_signo)
            elif not self.asked and self.folder.is_asked_to_stop():
                self.asked = True
                self._stop(signal.SIGTERM)
            if time.monotonic() > self.deadline:
                os.kill(self.child, signal.SIGKILL)
        _end_descendants()
        return code

    def _code(self) -> int | None:
        """Of the command; other processes came to be ours when their parents ended."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return None
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code

    def _stop(self, number: int) -> None:
        """The command alone, as container engines do: what it began is its own to end.

        A worker that is ended by a signal to the whole group makes a run fail that would have saved itself.
        """
        os.kill(self.child, number)
        self.deadline = min(self.deadline, time.monotonic() + self.stop_seconds)


def _begin(command: dict[str, Any], path: str, here: Path) -> int:
    child = subprocess.Popen(
        command["arguments"],
        env=os.environ | command["environment"] | {MARK: path},
        cwd=here,
        start_new_session=True,
        preexec_fn=partial(_end_with, os.getpid()),
    )
    # It is waited for together with those that are not Popen's.
    child.returncode = 0
    return child.pid


def _end_with(keeper: int) -> None:
    """In the child, before its program."""
    _control(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)


def _control(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _end_descendants() -> None:
    """Generation by generation: those of one that was killed become ours.

    A child's process id cannot be another's before we waited for it, so none is killed by mistake.
    """
    with suppress(ChildProcessError):
        while True:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
            signal.sigtimedwait(_AWAITED, _EVERY)


def _children() -> Iterator[int]:
    ours = str(os.getpid())
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                status = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace")
                # The name before it is in parentheses, and may have any character.
                if status.rpartition(")")[2].split()[1] == ours:
                    yield int(entry)


def _say(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
