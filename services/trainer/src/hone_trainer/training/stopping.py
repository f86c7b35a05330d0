"""SIGTERM and SIGINT: a run that trains stops at the end of the step that it is in, any other at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hone_contract.errors import RetryableFailure


class Stopped(RetryableFailure):
    """The run was asked to stop; what it had is in its newest checkpoint."""


class _AtOnce(KeyboardInterrupt):
    """Leaves wherever the process is. Libraries catch an Exception, above all while they are imported."""


class Stopping:
    """Whether the process was asked to stop, and what that does now."""

    def __init__(self) -> None:
        self.requested = False
        self.training = False
        """In between, the run is at no place from which it could go on: it stops at once."""

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Within it a step is ended first, and whoever trains raises Stopped."""
        self.check()
        self.training = True
        try:
            yield
        finally:
            self.training = False
        self.check()

    def check(self) -> None:
        """Raises Stopped when the process was asked to stop and goes on all the same.

        That happens in the last step, and where Python swallows what a signal handler raises: in a finaliser.
        """
        if self.requested:
            raise Stopped("stopped; the same command goes on from the newest checkpoint")

    def handle(self, signal_number: int, _frame: FrameType | None) -> None:
        """A signal's handler."""
        # A second signal does not wait for the step either.
        at_once = self.requested or not self.training
        self.requested = True
        if at_once:
            raise _AtOnce(
                f"stopped by {signal.Signals(signal_number).name}; the same command goes on from the newest "
                "checkpoint"
            )


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Handles both signals while the block runs. Only the main thread may; in another, nothing changes.

    Raises Stopped.
    """
    state = Stopping()
    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = {number: signal.signal(number, state.handle) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield state
    except _AtOnce as error:
        raise Stopped(str(error)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
