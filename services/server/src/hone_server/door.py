"""Lets requests for answers in, counts those inside, and holds new ones back while the model is swapped."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Door:
    """Open, closed for a moment (requests wait), or shut for longer (requests are refused)."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.inside = 0
        self.waiting = 0
        self.refusal: str | None = None
        """Why nobody is let in now. None: whoever comes is let in, or waits."""

    @asynccontextmanager
    async def pass_through(self) -> AsyncIterator[None]:
        """Be inside during the body; before it, wait until the door is open."""
        self.waiting += 1
        try:
            # It may have been closed again before this task's turn came.
            while not self._open.is_set():
                await self._open.wait()
        finally:
            self.waiting -= 1
        self.inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.inside -= 1
            if not self.inside:
                self._empty.set()

    async def close(self, deadline: float) -> float:
        """Let no one in, wait until the last has left, and say how long that took (seconds).

        Raises TimeoutError when someone is still inside after `deadline` seconds, and is open again then.
        """
        start = time.monotonic()
        self._open.clear()
        closed = False
        try:
            await self.wait_until_empty(deadline)
            closed = True
        finally:
            if not closed:
                self.open()
        return time.monotonic() - start

    async def wait_until_empty(self, deadline: float) -> None:
        """Raises TimeoutError when someone is still inside after `deadline` seconds."""
        if self.inside:
            # Not `wait_for`, which in Python 3.11 may swallow a cancellation.
            async with asyncio.timeout(deadline):
                await self._empty.wait()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def open(self) -> None:
        """Let in who waits, and who comes."""
        self.refusal = None
        self._open.set()

    def shut(self, reason: str) -> None:
        """Refuse who comes from now on, and who waits already."""
        self.refusal = reason
        self._open.set()
