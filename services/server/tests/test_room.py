"""The room on the store's volume, as `/metrics` tells it."""

import asyncio
import math
import shutil
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from swap_samples import until

from hone_server import room


def test_the_room_is_told_and_a_volume_that_is_gone_has_none_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_EVERY_SECONDS", 0.001)
    store = tmp_path / "store"
    store.mkdir()

    async def watch() -> None:
        watching = asyncio.create_task(room.watch_room(store))
        await until(lambda: _told("size") == shutil.disk_usage(store).total, watching)
        assert 0 < _told("free") <= _told("size")
        store.rmdir()
        await until(lambda: math.isnan(_told("free")) and math.isnan(_told("size")), watching)
        store.mkdir()
        await until(lambda: _told("free") > 0, watching)
        watching.cancel()

    asyncio.run(watch())


def _told(what: str) -> float:
    return REGISTRY.get_sample_value(f"hone_store_{what}_bytes") or 0.0
