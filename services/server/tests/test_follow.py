"""A server follows `live`, and keeps what it has when in doubt."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace

import pytest
import torch
from swap_samples import NAME, WEIGHTS, Engine, make_serving, notes_of, publish, start, until, write_weights

from hone_contract.artifact import Artifact, remove
from hone_contract.errors import ArtifactBusy
from hone_contract.manifest import Kind
from hone_contract.store import Store
from hone_server import follow, proof, swap
from hone_server.current import Serving
from hone_server.follow import Follower


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def stops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why the process was told to stop, each time."""
    stopped: list[str] = []

    def stop(serving: Serving) -> None:
        stopped.append(serving.failure or ("restarting" if serving.restarting else ""))

    monkeypatch.setattr(Serving, "stop", stop)
    return stopped


@dataclass(frozen=True)
class Scripted(Store):
    """`live` names these in turn, and the last for ever."""

    script: list[str | Exception | None] = field(default_factory=list)
    read: list[str | Exception | None] = field(default_factory=list)

    def read_live(self, name: str) -> str | None:
        assert name == NAME
        found = self.script[min(len(self.read), len(self.script) - 1)]
        self.read.append(found)
        if isinstance(found, Exception):
            raise found
        return found


class Drill:
    """A server of `v1`, proven."""

    def __init__(self, store: Store, *script: str | Exception | None, **changes: object) -> None:
        self.old = publish(store, "v1", 1.0)
        self.engine = Engine(self.old)
        self.store = Scripted(store.root, script=list(script))
        self.serving = make_serving(self.store, self.old, self.engine, **changes)

    @asynccontextmanager
    async def following(self) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(Follower(self.serving).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=5)
            assert task.done(), "it goes on though it was cancelled"
        if not task.cancelled():
            task.result()

    async def poll(self, times: int = 10) -> None:
        """Follow until it has looked so often."""
        async with self.following() as task:
            await until(lambda: len(self.store.read) >= times, task)

    async def follow_to_the_end(self) -> None:
        async with self.following() as task, asyncio.timeout(5):
            await task

    def told(self, event: str = "not_swapped") -> list[str]:
        return notes_of(self.serving).named(event)

    @property
    def is_as_before(self) -> bool:
        """It serves on, and its engine was not so much as asked."""
        door = self.serving.door
        return (
            self.serving.model is self.old
            and self.engine.calls == []
            and door.is_open
            and door.refusal is None
            and self.serving.failure is None
            and not self.serving.restarting
        )


def _other_shape(folder: Path) -> None:
    write_weights(folder / WEIGHTS, 2.0, **{"model.embed.weight": torch.zeros(9)})


def _other_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("another")


def _flip_a_byte(model: Artifact) -> None:
    data = bytearray((model.path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (model.path / WEIGHTS).write_bytes(data)


def test_what_live_names_is_swapped_in_and_remembered(store: Store) -> None:
    drill = Drill(store, "v1", "v2")
    new = publish(store, "v2", 2.0)

    async def swap() -> None:
        async with drill.following() as task:
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(swap())
    assert drill.serving.model.path == new.path
    assert drill.engine.level == 2.0
    assert drill.serving.memory.record.passed == ["v1", "v2"]
    assert drill.serving.memory.record.attempted is None
    assert drill.told("swapping") == ["swapping v1 for v2"]


def test_a_version_that_is_served_already_is_left_alone(store: Store) -> None:
    drill = Drill(store, "v1")
    asyncio.run(drill.poll())
    assert drill.is_as_before
    assert notes_of(drill.serving).told == []


def test_a_pointer_that_moves_is_left_to_settle(store: Store) -> None:
    drill = Drill(store, "v2", "v3", "v2", "v1", "v2", "v3", "v3")
    for version in ("v2", "v3"):
        publish(store, version, 2.0)
    polls: list[int] = []
    drill.engine.noting = lambda _: polls.append(len(drill.store.read))

    async def swap() -> None:
        async with drill.following() as task:
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(swap())
    assert set(polls) == {7}
    assert drill.told("swapping") == ["swapping v1 for v3"]


def test_a_version_is_marked_before_the_engine_is_touched(store: Store) -> None:
    drill = Drill(store, "v2")
    new = publish(store, "v2", 2.0)
    marked: list[bool] = []

    def note(_: str) -> None:
        attempted = drill.serving.memory.record.attempted
        marked.append(attempted is not None and attempted.is_of(new))

    drill.engine.noting = note

    async def swap() -> None:
        async with drill.following() as task:
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(swap())
    assert marked
    assert all(marked)


@pytest.mark.parametrize(
    ("live", "told"),
    [
        (None, "no live version"),
        ("v9", "no model at"),
        (OSError(116, "Stale file handle"), "Stale file handle"),
    ],
    ids=["no live", "no such version", "no volume"],
)
def test_what_cannot_be_had_is_told_once_and_the_server_serves_on(
    store: Store, live: str | Exception | None, told: str
) -> None:
    drill = Drill(store, live)
    asyncio.run(drill.poll())
    assert drill.is_as_before
    [message] = drill.told()
    assert told in message
    assert "v1 is served on" in message


def test_what_comes_back_is_told_again(store: Store) -> None:
    drill = Drill(store, None, None, "v1", None)
    asyncio.run(drill.poll())
    assert [("no live version" in message) for message in drill.told()] == [True, True]


def test_a_volume_that_hangs_is_told_and_holds_up_neither_answers_nor_the_end(store: Store) -> None:
    """Nobody writes into the pipe, so whoever reads it waits for ever."""
    drill = Drill(store)
    drill.serving.settings = replace(drill.serving.settings, store=store)
    store.live(NAME).unlink(missing_ok=True)
    os.mkfifo(store.live(NAME))

    async def follow_it() -> None:
        async with drill.following() as task:
            await until(lambda: drill.told(), task)

    asyncio.run(follow_it())
    assert drill.is_as_before
    assert drill.told() == [f"{store.root} does not answer; v1 is served on"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (follow, "open_artifact"),
        (follow, "difference"),
        (follow, "held"),
        (swap, "read_probes"),
        (proof, "read_probes"),
        (proof, "other_files"),
        (swap, "same_weights"),
    ],
)
def test_a_volume_that_hangs_during_a_swap_holds_up_neither_answers_nor_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    begun, hangs, over = Event(), Event(), Event()

    def hang(*_: object, **__: object) -> None:
        begun.set()
        hangs.wait(20)
        over.set()

    drill = Drill(store, "v2")
    # The same weights as before, which no answer can tell from those of before.
    publish(store, "v2", 1.0)
    monkeypatch.setattr(module, name, hang)

    async def begin() -> None:
        async with drill.following() as task:
            await until(begun.is_set, task)

    asyncio.run(begin())
    assert not over.is_set()
    assert drill.serving.model is drill.old
    hangs.set()


def test_a_pointer_that_holds_nonsense_is_told_once(store: Store) -> None:
    drill = Drill(store)
    store.live(NAME).write_text("../../elsewhere\n")
    # Not the script: it is the store that finds that it is no name.
    drill.serving.settings = make_serving(store, drill.old, drill.engine).settings

    async def poll() -> None:
        async with drill.following() as task:
            await until(drill.told, task)

    asyncio.run(poll())
    assert drill.is_as_before
    assert "names no version" in drill.told()[0]


def test_a_corrupt_version_is_told_once_and_never_loaded(store: Store) -> None:
    drill = Drill(store, "v2")
    _flip_a_byte(publish(store, "v2", 2.0))
    asyncio.run(drill.poll())
    assert drill.is_as_before
    [message] = drill.told()
    assert "has changed since it was sealed" in message


def test_a_version_that_cannot_be_served_is_left_alone_for_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(follow, "time", clock)
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 15.0)
    looks: list[Path] = []
    opening = follow.open_artifact

    def noted(path: Path, kind: Kind, *, digests: bool = False) -> Artifact:
        looks.extend([path] if digests else [])
        return opening(path, kind, digests=digests)

    monkeypatch.setattr(follow, "open_artifact", noted)
    drill = Drill(store, "v2")
    model = publish(store, "v2", 2.0)
    _flip_a_byte(model)

    async def wait_and_look_again() -> None:
        async with drill.following() as task:
            await until(lambda: len(drill.store.read) >= 20, task)
            # To read every byte at every poll would keep disk and processor busy.
            assert len(looks) == 1
            _flip_a_byte(model)
            clock.now += 14.9
            polls = len(drill.store.read)
            await until(lambda: len(drill.store.read) >= polls + 20, task)
            assert len(looks) == 1
            clock.now += 0.2
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(wait_and_look_again())
    assert drill.serving.model.path == model.path


def test_a_version_that_is_left_alone_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 1e9)
    drill = Drill(store, "v2", "v2", "v2", "v2", "v3")
    _flip_a_byte(publish(store, "v2", 2.0))
    publish(store, "v3", 3.0)

    async def swap() -> None:
        async with drill.following() as task:
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(swap())
    assert drill.engine.level == 3.0


def test_a_version_that_is_not_sealed_is_not_touched(store: Store) -> None:
    drill = Drill(store, "v2")
    store.model(NAME, "v2").mkdir()
    asyncio.run(drill.poll())
    assert drill.is_as_before
    assert "never sealed" in drill.told()[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", "{"), ("config.json", "[]"), (WEIGHTS, "no tensors")],
    ids=["config is no JSON", "config is a list", "weights are no safetensors"],
)
def test_a_version_whose_files_make_no_sense_leaves_the_server_serving(
    store: Store, name: str, content: str
) -> None:
    drill = Drill(store, "v2")

    def spoil(folder: Path) -> None:
        (folder / name).write_text(content)

    publish(store, "v2", 2.0, change=spoil)
    asyncio.run(drill.poll())
    assert drill.is_as_before
    assert len(drill.told()) == 1


def test_another_tokenizer_than_the_one_it_was_trained_with_is_refused(store: Store) -> None:
    drill = Drill(store, "v2")
    publish(store, "v2", 2.0, change=_other_tokenizer)
    asyncio.run(drill.poll())
    assert drill.is_as_before
    [refused] = drill.serving.memory.record.refused
    assert (refused.version, "tokenizer.json" in refused.reason) == ("v2", True)


def test_a_refused_version_is_tried_once(store: Store) -> None:
    drill = Drill(store, "v2")
    publish(store, "v2", 2.0, probed=3.0)
    asyncio.run(drill.poll(20))
    assert drill.engine.calls.count("load v2") == 1
    assert drill.engine.calls.count("load v1") == 1
    assert drill.serving.model is drill.old
    assert drill.serving.door.is_open
    assert drill.serving.memory.record.passed == ["v1"]
    [refused] = drill.serving.memory.record.refused
    assert "not the merged model" in refused.reason
    # Once as it is refused, and once that it will not be tried again.
    assert len(drill.told()) == 2


def test_a_refused_version_that_is_made_anew_is_tried_again(store: Store) -> None:
    drill = Drill(store, "v2")
    model = publish(store, "v2", 2.0, probed=3.0)

    async def refuse_and_remake() -> None:
        async with drill.following() as task:
            await until(lambda: drill.serving.memory.record.refused, task)
            shutil.rmtree(model.path)
            publish(store, "v2", 2.0)
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(refuse_and_remake())
    assert drill.engine.level == 2.0
    assert drill.serving.memory.record.refused == []


def test_another_version_is_taken_after_one_was_refused(store: Store) -> None:
    drill = Drill(store, "v2", "v2", "v3")
    publish(store, "v2", 2.0, probed=3.0)
    publish(store, "v3", 3.0)

    async def swap() -> None:
        async with drill.following() as task:
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(swap())
    assert drill.engine.level == 3.0
    assert [each.version for each in drill.serving.memory.record.refused] == ["v2"]


def test_a_crowded_server_tries_again(store: Store) -> None:
    drill = Drill(store, "v2", drain_seconds=0.01)
    publish(store, "v2", 2.0)

    async def swap() -> None:
        async with drill.following() as task:
            async with drill.serving.door.pass_through():
                await until(drill.told, task)
                assert drill.is_as_before
                assert "not swapped in yet" in drill.told()[0]
                await until(lambda: drill.serving.memory.record.attempted is None, task)
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(swap())
    assert drill.serving.memory.record.refused == []


def test_a_crowded_server_lets_people_in_for_a_while_before_it_tries_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 1e9)
    drill = Drill(store, "v2", drain_seconds=0.001)
    publish(store, "v2", 2.0)

    async def look() -> None:
        async with drill.following() as task, drill.serving.door.pass_through():
            await until(drill.told, task)
            polls = len(drill.store.read)
            await until(lambda: len(drill.store.read) >= polls + 20, task)

    asyncio.run(look())
    # Whoever comes waits at the closed door: one long answer would hold up all others, time and again.
    assert len(drill.told("swapping")) == 1


def test_the_new_version_is_held_and_the_old_one_is_let_go(store: Store) -> None:
    drill = Drill(store, "v2", "v2", "v3")
    new, newer = publish(store, "v2", 2.0), publish(store, "v3", 3.0)

    async def swap() -> None:
        async with drill.following() as task:
            await until(lambda: len(drill.told("swapped")) == 2, task)
            # The task goes on to hold it when its turn comes.
            await until(lambda: len(drill.store.read) >= 6, task)
            with pytest.raises(ArtifactBusy):
                remove(newer.path)
            remove(new.path)

    asyncio.run(swap())
    assert not new.path.exists()


def test_a_refused_version_is_let_go(store: Store) -> None:
    drill = Drill(store, "v2")
    model = publish(store, "v2", 2.0, probed=3.0)

    async def refuse() -> None:
        async with drill.following() as task:
            await until(lambda: len(drill.told()) == 2, task)
            remove(model.path)

    asyncio.run(refuse())
    assert not model.path.exists()


def test_a_version_is_held_while_it_is_swapped_in(store: Store) -> None:
    drill = Drill(store, "v2")
    model = publish(store, "v2", 2.0)
    refused: list[str] = []

    def try_to_remove(call: str) -> None:
        with pytest.raises(ArtifactBusy):
            remove(model.path)
        refused.append(call)

    drill.engine.noting = try_to_remove

    async def swap() -> None:
        async with drill.following() as task:
            await until(lambda: drill.told("swapped"), task)

    asyncio.run(swap())
    assert "load v2" in refused


def test_a_version_of_another_shape_starts_the_server_anew(store: Store, stops: list[str]) -> None:
    drill = Drill(store, "v2")
    publish(store, "v2", 2.0, change=_other_shape)
    asyncio.run(drill.follow_to_the_end())
    assert drill.serving.restarting
    assert stops == ["restarting"]
    assert drill.engine.calls == []
    assert "v2 needs an engine of its own: its tensors" in (drill.serving.door.refusal or "")
    assert len(drill.told("restarting")) == 1


def test_an_answer_in_flight_ends_before_the_server_starts_anew(store: Store, stops: list[str]) -> None:
    drill = Drill(store, "v2")
    publish(store, "v2", 2.0, change=_other_shape)

    async def start_anew() -> None:
        async with drill.following() as task:
            async with drill.serving.door.pass_through():
                await until(lambda: drill.serving.door.refusal, task)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert stops == []
            async with asyncio.timeout(5):
                await task

    asyncio.run(start_anew())
    assert stops == ["restarting"]
    assert drill.told("drain_ended") == []


def test_an_answer_that_goes_on_for_too_long_does_not_keep_the_server_from_starting_anew(
    store: Store, stops: list[str]
) -> None:
    drill = Drill(store, "v2", drain_seconds=0.01)
    publish(store, "v2", 2.0, change=_other_shape)

    async def start_anew() -> None:
        async with drill.following() as task, drill.serving.door.pass_through(), asyncio.timeout(5):
            await task

    asyncio.run(start_anew())
    assert stops == ["restarting"]
    assert len(drill.told("drain_ended")) == 1


def test_an_engine_that_holds_neither_version_ends_the_server(store: Store, stops: list[str]) -> None:
    drill = Drill(store, "v2")
    model = publish(store, "v2", 2.0)
    drill.engine.failing = ["load v2", "load v1"]
    asyncio.run(drill.follow_to_the_end())
    assert "v1 cannot be served again" in (drill.serving.failure or "")
    assert stops == [drill.serving.failure]
    assert drill.serving.door.refusal is not None
    # So that the next start takes the one that passed.
    assert drill.serving.memory.record.refusal(model) is not None


def test_an_error_that_nobody_foresaw_is_not_kept_quiet(store: Store) -> None:
    drill = Drill(store, "v2")
    model = publish(store, "v2", 2.0)
    drill.engine.model_config.dtype = "torch.float8"
    with pytest.raises(KeyError):
        asyncio.run(drill.follow_to_the_end())
    assert drill.serving.door.refusal is not None
    assert drill.serving.memory.record.at_a_start().refusal(model) is not None


@pytest.mark.parametrize(("why", "value"), [("restarting", True), ("failure", "it hung"), ("name", NAME)])
def test_the_signal_that_a_server_gives_itself_is_not_taken_for_one_from_outside(
    store: Store, why: str, value: object
) -> None:
    drill = Drill(store, "v1")
    setattr(drill.serving, why, value)
    drill.serving.note_signal()
    assert drill.serving.stopping is (why == "name")
    drill.serving.note_signal()
    assert drill.serving.stopping


@pytest.mark.parametrize("why", ["restarting", "failure"])
def test_a_server_that_is_to_end_takes_no_other_version(store: Store, why: str) -> None:
    drill = Drill(store, "v2")
    publish(store, "v2", 2.0)
    setattr(drill.serving, why, "it hung" if why == "failure" else True)
    asyncio.run(drill.follow_to_the_end())
    assert drill.engine.calls == []


def test_the_version_that_the_server_started_with_is_let_go_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(store, "v1", 1.0)
    store.point_live(NAME, "v1")

    def serve(serving: Serving, _: socket.socket) -> None:
        async def swap() -> None:
            engine = Engine(first)
            serving.engine, serving.app = engine, engine.app
            following = asyncio.create_task(Follower(serving).run())
            with pytest.raises(ArtifactBusy):
                remove(first.path)
            publish(store, "v2", 2.0)
            store.point_live(NAME, "v2")
            await until(lambda: serving.memory.record.passed == ["v2"] and serving.door.is_open, following)
            remove(first.path)

        asyncio.run(swap())

    start(monkeypatch, store, serve)
    assert not first.path.exists()
