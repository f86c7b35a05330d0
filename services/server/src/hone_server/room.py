"""Tells how much room the store's volume has, which merges and trainings share with this server."""

import asyncio
import shutil
from pathlib import Path

from hone_contract.manifest import FILE_NAME
from hone_server.apart import apart
from hone_server.current import Serving
from hone_server.metrics import record_room

_EVERY_SECONDS = 15.0


async def watch_room(serving: Serving) -> None:
    """For ever. A volume that is gone, or does not answer, has no room that is known."""
    while True:
        # Apart, since a volume over the network may take its time, or for ever.
        asked = asyncio.create_task(apart(lambda: _room(serving.model.path)))
        answered, _ = await asyncio.wait([asked], timeout=_EVERY_SECONDS)
        if not answered:
            record_room(None, None)
        try:
            record_room(*await asked)
        except OSError:
            record_room(None, None)
        await asyncio.sleep(_EVERY_SECONDS)


def _room(served: Path) -> tuple[int, int]:
    """Size and what is free, of the disk that has the artifact that is served.

    It must be seen there: a volume that was unmounted leaves an empty folder on another disk, and a disk that
    died still tells its size.
    """
    (served / FILE_NAME).read_bytes()
    usage = shutil.disk_usage(served)
    return usage.total, usage.free
