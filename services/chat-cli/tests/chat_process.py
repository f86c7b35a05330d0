"""The real command, in a process or in a terminal of its own."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

SECONDS = 15.0
COMMAND = [sys.executable, "-m", "hone_chat"]


@dataclass(frozen=True)
class Outcome:
    """What a finished process left behind."""

    code: int
    out: str
    err: str


def told(outcome: Outcome, code: int) -> str:
    """Check that the command failed with one line and this exit code; the line."""
    assert outcome.code == code
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


def environment(url: str, **more: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with a server."""
    ours = ("HONE_", "OPENAI_", "COLUMNS", "LINES", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # A folder that is none: no file of the user's own is read, and none is written.
    nowhere = {"XDG_CONFIG_HOME": "/dev/null", "XDG_STATE_HOME": "/dev/null"}
    return {**kept, **nowhere, "HONE_URL": url, "PYTHONUTF8": "1", "TERM": "xterm", **more}


Run = Callable[..., Outcome]


def run_process(url: str, *arguments: str, stdin: bytes = b"", **more: str) -> Outcome:
    """Run the command to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(url, **more),
        timeout=SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Signs:
    """What a terminal shows when it waits for a line, and when it has got one."""

    ready: str
    done: str


EDITOR = Signs(r"\x1b\[\?2004h[^\n]*you>", r"\x1b\[\?2004l")
"""The editor asks for whole pastes while it waits."""
DUMB = Signs("you> ", r"\n")


class Terminal:
    """The command in a terminal of its own, which keeps its history in a folder of its own."""

    def __init__(self, url: str, *arguments: str, columns: int = 250, **more: str) -> None:
        self._signs = DUMB if more.get("TERM") == "dumb" else EDITOR
        self._state = tempfile.TemporaryDirectory()
        more.setdefault("XDG_STATE_HOME", self._state.name)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        # The shell opens the terminal as leader of a new session, so that Ctrl-C reaches it.
        shell = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs)]
        self._process = subprocess.Popen(
            [*shell, *COMMAND, *arguments],
            env=environment(url, **more),
            start_new_session=True,
        )
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._theirs = theirs
        self._found = self._seen = 0
        self.screen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        os.close(self._theirs)
        os.close(self._ours)
        self._state.cleanup()

    def wait_for(self, pattern: str) -> str:
        """Read on until the pattern shows up; what came till then."""
        deadline = time.monotonic() + SECONDS
        sought = re.compile(pattern)
        while not (found := sought.search(self.screen, self._seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.screen!r}"
            self._read(0.1)
        text = self.screen[self._seen : found.end()]
        self._found, self._seen = found.span()
        return text

    def type(self, text: str) -> None:
        """Press keys."""
        self.press(text.encode())

    def press(self, keys: bytes) -> None:
        """Press keys that may be no text."""
        os.write(self._ours, keys)

    def ask(self, text: str) -> str:
        """Type a line at the prompt; what is shown until the next prompt."""
        self.enter(text)
        start = self._seen
        self.at_prompt()
        # The next question waits for the same prompt.
        self._seen = self._found
        return self.screen[start : self._seen]

    def enter(self, text: str) -> None:
        """Type a line at the prompt, and wait until it is taken."""
        self.at_prompt()
        self.type(f"{text}\r")
        self.wait_for(self._signs.done)

    def at_prompt(self) -> None:
        """Wait for the prompt."""
        self.wait_for(self._signs.ready)

    def leave(self, keys: str) -> int:
        """Type at the prompt and wait for the end; the exit code."""
        self.at_prompt()
        # Again if need be: Python overlooks a Ctrl-C in the instant before it waits for keys.
        for _ in range(5):
            self.type(keys)
            if self._has_ended_within(SECONDS / 5):
                break
        return self.end()

    def end(self) -> int:
        """Read until the command ends; the exit code."""
        assert self._has_ended_within(SECONDS), f"still running: {self.screen!r}"
        while self._read(0):
            pass
        return self._process.returncode

    def _has_ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read(0.02)
        return self._process.poll() is not None

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        self.screen += self._decoder.decode(os.read(self._ours, 65536))
        return True
