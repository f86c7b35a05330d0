"""The room on the store's volume, as `/metrics` tells it."""

import asyncio
import math
import os
import shutil

import pytest
from prometheus_client import REGISTRY
from swap_samples import Engine, make_serving, publish, until

from hone_contract.manifest import FILE_NAME
from hone_contract.store import Store
from hone_server import room
from hone_server.current import Serving


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_EVERY_SECONDS", 0.01)


@pytest.fixture
def serving(store: Store) -> Serving:
    model = publish(store, "v1")
    return make_serving(store, model, Engine(model))


def test_the_room_is_told_and_a_volume_that_is_gone_has_none_that_is_known(
    serving: Serving, store: Store
) -> None:
    away = store.root.with_name("away")

    async def watch() -> None:
        watching = asyncio.create_task(room.watch_room(serving))
        await until(lambda: _told("size") == shutil.disk_usage(store.root).total, watching)
        assert 0 < _told("free") <= _told("size")
        store.root.rename(away)
        # As what was mounted there leaves it: there, and on another disk.
        store.root.mkdir()
        await until(lambda: math.isnan(_told("free")) and math.isnan(_told("size")), watching)
        store.root.rmdir()
        away.rename(store.root)
        await until(lambda: _told("free") > 0, watching)
        watching.cancel()

    asyncio.run(watch())


def test_a_volume_that_hangs_has_no_room_that_is_known(serving: Serving) -> None:
    """Nobody writes into the pipe yet, so whoever reads it waits."""
    manifest = serving.model.path / FILE_NAME
    text = manifest.read_text()
    manifest.unlink()
    os.mkfifo(manifest)

    async def watch() -> None:
        watching = asyncio.create_task(room.watch_room(serving))
        await until(lambda: math.isnan(_told("free")), watching)
        manifest.write_text(text)
        await until(lambda: _told("free") > 0, watching)
        watching.cancel()

    asyncio.run(watch())


def _told(what: str) -> float:
    return REGISTRY.get_sample_value(f"hone_store_{what}_bytes") or 0.0
