"""The edge of a process: where an error becomes one line and an exit code."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from hone_contract.errors import BadConfiguration, HoneError, RetryableFailure

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What is told of a disk, or of a quota, that is full."""
AWAY = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
"""What is told of a volume that may come back."""


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong option is bad configuration (78), not argparse's 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(BadConfiguration.exit_code, f"{self.prog}: {message}. See: {self.prog} --help\n")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a service's main and leave with its exit code; a HoneError is told in one line.

    SIGTERM leaves with 143 on the way that an exception takes, so that what is open is closed; by itself
    Python as process 1 of a container would ignore it.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _flushed(main() or 0)
    except HoneError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read what we told has left before the work was done.
        _forget_output()
        code = 128 + signal.SIGPIPE
    except OSError as error:
        # A disk may have room again, or come back; a wrong path or missing permission stays wrong.
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        may_pass = error.errno in (*FULL, *AWAY)
        code = RetryableFailure.exit_code if may_pass else BadConfiguration.exit_code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def _flushed(code: int) -> int:
    """The work is done; a reader that has left (`… | head`) does not make it a failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
    return code


def _forget_output() -> None:
    """Python would complain of the broken pipe again when it shuts down."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _terminate(signal_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)
