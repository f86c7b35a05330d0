"""Waits for the network in a way that Ctrl-C can end at any time, and always cleanly.

asyncio.Runner listens to Ctrl-C only while it runs: one that comes just before or after leaves a coroutine
behind that nobody ends. Here it is listened to for the whole of an answer, and it arrives at a wait.
"""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

_Result = TypeVar("_Result")


class Waiter:
    """Runs one coroutine at a time in one event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None
        self._interrupts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.close()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, Ctrl-C ends the wait that is on, or else the next one, by a KeyboardInterrupt."""
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            # Whoever started us wants it ignored.
            yield
            return
        self._interrupts = 0
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """What the coroutine returns."""
        loop = self._runner.get_loop()
        self._task = loop.create_task(coroutine)
        # One that came before there was a task could not end it.
        if self._interrupts:
            self._task.cancel()
        try:
            result: _Result = loop.run_until_complete(self._task)
            return result
        except asyncio.CancelledError:
            self._interrupts = 0
            raise KeyboardInterrupt from None
        finally:
            self._task = None

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._task is not None:
            self._task.cancel()
            # The loop may sleep in a select that no signal wakes.
            self._runner.get_loop().call_soon_threadsafe(lambda: None)
        elif self._interrupts > 1:
            # Something else holds us up, such as a terminal that does not take what is written.
            raise KeyboardInterrupt
