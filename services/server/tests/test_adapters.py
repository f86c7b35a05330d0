"""Which adapters stay loaded; that the engine takes and computes them is for the chain's tests."""

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
from server_samples import make_settings

from hone_contract.artifact import Artifact
from hone_contract.store import Store
from hone_server.adapter_list import NoSuchAdapter
from hone_server.adapters import Adapters, Loaded
from hone_server.current import Serving

ROOM = 2


class _Adapters(Adapters):
    """Loading and unloading take a turn of the event loop, and nothing else."""

    def __init__(self, serving: Serving) -> None:
        super().__init__(serving, None)
        self.calls: list[str] = []

    def _examined(self, path: Any) -> Any:
        return path

    async def _load(self, name: str, model: Artifact) -> Any:
        self.calls.append(f"load {name}")
        await asyncio.sleep(0)
        return Loaded(model, None, ExitStack())  # type: ignore[arg-type]

    async def _unload(self, name: str) -> None:
        self.calls.append(f"unload {name}")
        await asyncio.sleep(0)

    async def ask(self, *names: str) -> None:
        """One after the other, each let go before the next."""
        for name in names:
            async with self.admitted(name):
                pass


@pytest.fixture
def adapters(serving: Serving) -> _Adapters:
    store: Store = serving.settings.store
    for name in "abcd":
        store.adapter(name).mkdir(parents=True)
    serving.settings = make_settings(store, base="tiny", adapters_loaded=ROOM)
    return _Adapters(serving)


def test_an_adapter_is_loaded_when_it_is_first_asked_for(adapters: _Adapters) -> None:
    asyncio.run(adapters.ask("a", "b", "a"))
    assert adapters.calls == ["load a", "load b"]


def test_the_one_that_was_used_longest_ago_makes_way(adapters: _Adapters) -> None:
    asyncio.run(adapters.ask("a", "b", "a", "c"))
    assert adapters.calls == ["load a", "load b", "load c", "unload b"]
    assert list(adapters.loaded) == ["a", "c"]


def test_one_that_is_being_asked_stays(adapters: _Adapters) -> None:
    async def ask() -> None:
        async with adapters.admitted("a"), adapters.admitted("b"):
            await adapters.ask("c")
            assert list(adapters.loaded) == ["a", "b", "c"]
        await adapters.ask("c")

    asyncio.run(ask())
    assert list(adapters.loaded) == ["b", "c"]


def test_many_at_once_load_it_once(adapters: _Adapters) -> None:
    async def ask() -> None:
        await asyncio.gather(*(adapters.ask("a") for _ in range(20)))

    asyncio.run(ask())
    assert adapters.calls == ["load a"]


def test_whoever_asks_while_it_makes_way_waits_and_has_it_loaded_again(adapters: _Adapters) -> None:
    async def ask() -> None:
        await asyncio.gather(*(adapters.ask(*"abcd") for _ in range(10)))

    asyncio.run(ask())
    loaded: set[str] = set()
    for call in adapters.calls:
        verb, name = call.split()
        # The engine refuses to load what it has, and to unload what it lacks.
        assert (name in loaded) == (verb == "unload")
        loaded ^= {name}
    assert loaded == adapters.loaded.keys()
    assert len(loaded) == ROOM


def test_names_that_are_made_up_leave_nothing(adapters: _Adapters) -> None:
    async def ask() -> None:
        for number in range(100):
            with pytest.raises(NoSuchAdapter):
                await adapters.ask(f"nobody-{number}")

    asyncio.run(ask())
    assert not adapters.calls
    assert not adapters._asked
    assert not adapters._locks
