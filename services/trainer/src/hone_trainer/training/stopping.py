"""SIGTERM and SIGINT while a run trains: it stops at the end of the step that it is in."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hone_contract.errors import RetryableFailure


class Stopped(RetryableFailure):
    """The run was asked to stop; what it had is in its newest checkpoint."""


class Stopping:
    """Whether the process was asked to stop, and what that does now."""

    def __init__(self) -> None:
        self.requested = False
        self.training = False
        """In between, the run is at no place from which it could go on: it stops at once."""

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Within it a step is ended first, and whoever trains raises Stopped."""
        self.training = True
        try:
            yield
        finally:
            self.training = False

    def handle(self, signal_number: int, _frame: FrameType | None) -> None:
        # A second signal does not wait for the step either.
        if self.requested or not self.training:
            raise Stopped(
                f"stopped by {signal.Signals(signal_number).name}; the same command goes on from the newest "
                "checkpoint"
            )
        self.requested = True


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Handles both signals while the block runs. Only the main thread may; in another, nothing changes."""
    state = Stopping()
    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = {number: signal.signal(number, state.handle) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
