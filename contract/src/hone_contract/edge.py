"""The edge of a process: where an error becomes one line and an exit code."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from hone_contract.errors import BadConfiguration, HoneError


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
        code = main() or 0
        sys.stdout.flush()
    except HoneError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read our output has left (`… | head`); Python would complain again at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def _terminate(signal_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)
