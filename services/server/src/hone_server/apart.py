"""Calls that may never return, as to a volume on a machine that is gone.

`asyncio.to_thread` would have the end of the process wait for them.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Generic, TypeVar

_Found = TypeVar("_Found")


async def apart(call: Callable[[], _Found]) -> _Found:
    """What `call` returns, or whatever it raises, in a thread that nobody waits for."""
    asked = _Asked[_Found]()

    def work() -> None:
        with asked:
            found = call()
            asked.settle(partial(asked.outcome.set_result, found))

    Thread(target=work, daemon=True).start()
    return await asked.outcome


class _Asked(Generic[_Found]):
    """Whoever waits in the event loop, as the thread sees them; what its body raises is handed over."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[_Found] = self._loop.create_future()

    def settle(self, settle: Callable[[], None]) -> None:
        def settle_once() -> None:
            # Whoever asked may have gone.
            if not self.outcome.done():
                settle()

        # The loop too.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(settle_once)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is not None:
            self.settle(partial(self.outcome.set_exception, error))
        return True
