"""Calls that may never return, as to a volume on a machine that is gone.

`asyncio.to_thread` would have the end of the process wait for them.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

from hone_contract.errors import HoneError

_Found = TypeVar("_Found")


async def apart(call: Callable[[], _Found]) -> _Found:
    """What `call` returns, or the OSError or HoneError that it raises, in a thread that nobody waits for."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_Found] = loop.create_future()

    def work() -> None:
        try:
            found = call()
        except (OSError, HoneError) as error:
            _hand_over(loop, outcome, partial(outcome.set_exception, error))
        else:
            _hand_over(loop, outcome, partial(outcome.set_result, found))

    Thread(target=work, daemon=True).start()
    return await outcome


def _hand_over(
    loop: asyncio.AbstractEventLoop, outcome: "asyncio.Future[_Found]", settle: Callable[[], None]
) -> None:
    def settle_once() -> None:
        # Whoever asked may have gone.
        if not outcome.done():
            settle()

    # The loop too.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(settle_once)
