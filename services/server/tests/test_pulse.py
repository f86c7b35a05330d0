"""An engine that hangs is found and killed; one that is slow, busy or out of order is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from swap_samples import Engine, make_serving, notes_of, publish, until

from hone_contract.probes import read_probes, write_probes
from hone_contract.store import Store
from hone_server import pulse
from hone_server.current import Serving
from hone_server.door import Door
from hone_server.pulse import watch

HANG = 60.0


class Clock:
    """Stands until it is moved, and counts how often it is looked at."""

    def __init__(self) -> None:
        self.now, self.looks = 100.0, 0

    def monotonic(self) -> float:
        self.looks += 1
        return self.now


class Watched:
    """A server whose engine answers or hangs, on a clock of its own."""

    def __init__(self, store: Store, clock: Clock) -> None:
        model = publish(store, "v1")
        self.engine, self.clock = Engine(model), clock
        self.serving = make_serving(store, model, self.engine, hang_seconds=HANG)
        self.asked = 0
        self.hangs = False
        self.answering = self.serving.app
        self.serving.app = self._app

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        while self.hangs:
            await asyncio.sleep(0.001)
        await self.answering(scope, receive, send)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(watch(self.serving))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def pass_time(self, seconds: float, task: "asyncio.Task[None]") -> None:
        """Until the watcher has seen the clock move."""
        self.clock.now += seconds
        looks = self.clock.looks
        await until(lambda: self.clock.looks > looks + 4 or task.done())


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The children that were killed, of two."""
    ended: list[int] = []
    children = [SimpleNamespace(kill=lambda number=number: ended.append(number)) for number in (1, 2)]

    def descendants(_: psutil.Process, recursive: bool = False) -> list[SimpleNamespace]:
        # An engine's workers are its children, not this process's.
        return children if recursive else children[:1]

    monkeypatch.setattr(psutil.Process, "children", descendants)
    return ended


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    registry = CollectorRegistry()
    monkeypatch.setattr(pulse, "REGISTRY", registry)
    return registry


@pytest.fixture
def watched(
    store: Store, monkeypatch: pytest.MonkeyPatch, killed: list[int], registry: CollectorRegistry
) -> Watched:
    assert (killed, list(registry.collect())) == ([], [])
    clock = Clock()
    monkeypatch.setattr(pulse, "time", clock)
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 0.001)
    monkeypatch.setattr(pulse, "_STEP_SECONDS", 0.001)
    return Watched(store, clock)


def _is_well(serving: Serving, killed: list[int]) -> bool:
    return serving.failure is None and killed == []


def test_an_engine_that_answers_is_asked_again_and_again_and_left_alone(
    watched: Watched, killed: list[int]
) -> None:
    async def drill() -> None:
        async with watched.watching() as task:
            for _ in range(3):
                asked = watched.asked
                await until(lambda asked=asked: watched.asked > asked, task)  # type: ignore[misc]
                watched.clock.now += 10 * HANG

    asyncio.run(drill())
    assert _is_well(watched.serving, killed)
    assert set(watched.engine.calls) == {"token"}
    assert notes_of(watched.serving).told == []


def test_an_engine_that_makes_no_token_is_killed_after_a_while(watched: Watched, killed: list[int]) -> None:
    watched.hangs = True

    async def drill() -> None:
        async with watched.watching() as task:
            await until(lambda: watched.asked, task)
            await watched.pass_time(HANG * 0.99, task)
            assert _is_well(watched.serving, killed)
            await watched.pass_time(HANG * 0.02, task)
            async with asyncio.timeout(5):
                await task

    asyncio.run(drill())
    assert watched.serving.failure == "the engine hung: no token in 60 s"
    assert killed == [1, 2]
    assert len(notes_of(watched.serving).named("engine_hung")) == 1


@pytest.mark.parametrize("name", ["vllm:prompt_tokens", "vllm:generation_tokens"])
def test_an_engine_with_a_long_queue_is_not_killed_while_tokens_come(
    watched: Watched, killed: list[int], registry: CollectorRegistry, name: str
) -> None:
    watched.hangs = True
    tokens = Counter(name, "tokens", ["model_name"], registry=registry)

    async def drill() -> None:
        async with watched.watching() as task:
            await until(lambda: watched.asked, task)
            for _ in range(5):
                tokens.labels("faq").inc()
                await watched.pass_time(HANG * 0.9, task)
                assert not task.done()
            assert _is_well(watched.serving, killed)
            # And when none comes any more:
            await watched.pass_time(HANG * 1.1, task)
            async with asyncio.timeout(5):
                await task

    asyncio.run(drill())
    assert killed == [1, 2]


def test_other_numbers_that_move_are_no_tokens(
    watched: Watched, killed: list[int], registry: CollectorRegistry
) -> None:
    watched.hangs = True
    requests = Histogram("vllm:request_prompt_tokens", "requests", registry=registry)
    scraped = Counter("hone_requests", "requests", registry=registry)

    async def drill() -> None:
        async with watched.watching() as task:
            await until(lambda: watched.asked, task)
            while not task.done():
                requests.observe(1)
                scraped.inc()
                await watched.pass_time(HANG * 0.6, task)

    asyncio.run(asyncio.wait_for(drill(), 5))
    assert killed == [1, 2]


def test_an_engine_behind_a_closed_door_is_not_asked(watched: Watched, killed: list[int]) -> None:
    class Looked(Door):
        looks = 0

        @property
        def is_open(self) -> bool:
            self.looks += 1
            return super().is_open

    door = Looked()
    watched.serving.door = door

    async def drill() -> None:
        await door.close(5)
        async with watched.watching() as task:
            await until(lambda: door.looks >= 5, task)
            assert watched.asked == 0
            door.open()
            await until(lambda: watched.asked, task)

    asyncio.run(drill())
    assert _is_well(watched.serving, killed)


def test_an_engine_that_is_asked_when_the_door_closes_is_given_time(
    watched: Watched, killed: list[int]
) -> None:
    watched.hangs = True

    async def drill() -> None:
        async with watched.watching() as task:
            await until(lambda: watched.asked, task)
            await watched.serving.door.close(5)
            for _ in range(3):
                await watched.pass_time(HANG * 0.9, task)
            assert _is_well(watched.serving, killed)
            watched.serving.door.open()
            await watched.pass_time(HANG * 1.1, task)
            async with asyncio.timeout(5):
                await task

    asyncio.run(drill())
    assert killed == [1, 2]


def test_an_engine_that_answers_with_an_error_has_answered(watched: Watched, killed: list[int]) -> None:
    watched.engine.failing = ["token"] * 2

    async def drill() -> None:
        async with watched.watching() as task:
            await until(lambda: watched.asked > 2, task)

    asyncio.run(drill())
    assert _is_well(watched.serving, killed)
    assert len(notes_of(watched.serving).named("pulse_failed")) == 2


def test_who_stops_watching_leaves_no_request_behind(watched: Watched) -> None:
    watched.hangs = True

    async def drill() -> set[str]:
        async with watched.watching() as task:
            await until(lambda: watched.asked, task)
        await asyncio.sleep(0)
        return {each.get_coro().__qualname__ for each in asyncio.all_tasks()}  # type: ignore[union-attr]

    assert not any("_ask" in name for name in asyncio.run(drill()))


def test_a_model_without_probes_that_is_served_all_the_same_is_watched_too(
    watched: Watched, store: Store
) -> None:
    watched.serving.model = publish(store, "v2", change=_without_probes)

    async def drill() -> None:
        async with watched.watching() as task:
            await until(lambda: watched.asked, task)

    asyncio.run(drill())


def _without_probes(folder: Any) -> None:
    recorded = read_probes(folder)
    write_probes(folder, recorded.model_copy(update={"probes": []}))
