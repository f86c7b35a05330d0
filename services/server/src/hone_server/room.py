"""Tells how much room the store's volume has, which merges and trainings share with this server."""

import asyncio
import shutil
from pathlib import Path

from hone_server.metrics import record_room

_EVERY_SECONDS = 15.0


async def watch_room(store: Path) -> None:
    """For ever. A volume that is gone has no room that is known."""
    while True:
        try:
            # In a thread, since a volume over the network may take its time, or for ever.
            usage = await asyncio.to_thread(shutil.disk_usage, store)
            record_room(usage.total, usage.free)
        except OSError:
            record_room(None, None)
        await asyncio.sleep(_EVERY_SECONDS)
