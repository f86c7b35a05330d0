"""Who joins an upload's parts: one request for each upload, and few in all.

Each join copies gigabytes and has a thread for as long as that takes. Nothing of this has to outlive the
process: what a killed one had joined is swept, and the upload is still pending.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

_AT_ONCE = 4


class Turns:
    """Of one process, and so of a data folder. Whoever waits has no thread."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(_AT_ONCE)
        # They are there for as long as somebody holds one or waits for it.
        self._each: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, project_id: str, upload_id: str) -> AsyncIterator[None]:
        """Another project's requests wait for nobody, or they would learn of the upload."""
        lock = self._each.setdefault((project_id, upload_id), asyncio.Lock())
        async with lock, self._all:
            yield
