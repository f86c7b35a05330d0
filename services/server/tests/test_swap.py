"""Another version is put into the running engine, or the one before it is proven again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from swap_samples import Engine, make_serving, notes_of, publish, until

from hone_contract.store import Store
from hone_server.swap import Crowded, EngineLost, Refused, Swapped, swap

TAKEN_OVER = ["score", "pause", "load v2", "resume", "score", "render", "score"]
RETURNED = ["pause", "load v1", "resume", "score", "render"]


class Drill:
    """A server of `v1`, and a `v2` that answers otherwise."""

    def __init__(
        self,
        store: Store,
        *,
        dtype: str = "float32",
        level: float = 2.0,
        probed: float | None = None,
        **changes: Any,
    ) -> None:
        self.old = publish(store, "v1", 1.0)
        self.new = publish(store, "v2", level, probed=probed)
        self.engine = Engine(self.old, dtype)
        self.serving = make_serving(store, self.old, self.engine, **changes)
        self.door = self.serving.door

    def swap(self) -> Swapped:
        return asyncio.run(swap(self.serving, self.new))

    def swap_failing(self, failure: type[Exception]) -> str:
        """What the failure says."""
        with pytest.raises(failure) as caught:
            self.swap()
        return str(caught.value)

    async def ask(self, leaving: asyncio.Event | None = None) -> tuple[float, float]:
        """A client's answer: the weights that it began with and those that it ended with."""
        async with self.door.pass_through():
            began = self.engine.level
            if leaving is not None:
                await leaving.wait()
            return began, self.engine.level

    @property
    def is_as_before(self) -> bool:
        return (
            self.serving.model is self.old
            and self.engine.level == 1.0
            and not self.engine.paused
            and self.door.is_open
            and self.door.refusal is None
        )


@pytest.fixture
def drill(store: Store) -> Drill:
    return Drill(store)


def test_the_new_version_is_loaded_proven_and_served(drill: Drill) -> None:
    before = drill.serving.verdict
    swapped = drill.swap()
    assert drill.engine.calls == TAKEN_OVER
    assert drill.serving.model is drill.new
    assert drill.serving.verdict is swapped.verdict is not before
    assert swapped.verdict.passed
    assert swapped.drain_seconds >= 0
    assert swapped.swap_seconds > 0
    assert drill.engine.level == 2.0
    assert drill.door.is_open
    assert drill.door.refusal is None
    assert len(notes_of(drill.serving).named("gate_passed")) == 1


def test_the_engine_is_touched_only_behind_a_closed_door(drill: Drill) -> None:
    seen = set()
    drill.engine.noting = lambda _: seen.add((drill.door.is_open, drill.door.inside))
    drill.swap()
    assert seen == {(False, 0)}


def test_an_answer_in_flight_ends_before_anything_is_loaded(drill: Drill) -> None:
    async def swap_while_one_answers() -> tuple[float, float]:
        leaving = asyncio.Event()
        asking = asyncio.create_task(drill.ask(leaving))
        await until(lambda: drill.door.inside)
        swapping = asyncio.create_task(swap(drill.serving, drill.new))
        await until(lambda: not drill.door.is_open)
        for _ in range(20):
            await asyncio.sleep(0)
        assert drill.engine.calls == []
        leaving.set()
        await swapping
        return await asking

    assert asyncio.run(swap_while_one_answers()) == (1.0, 1.0)


@pytest.mark.parametrize("goes_well", [True, False])
def test_who_comes_meanwhile_sees_only_proven_weights(drill: Drill, goes_well: bool) -> None:
    askings: list[asyncio.Task[tuple[float, float]]] = []
    drill.engine.noting = lambda _: askings.append(asyncio.create_task(drill.ask()))
    drill.engine.drifting, drill.engine.drift = "v2", 0.0 if goes_well else 0.5

    async def swap_while_many_come() -> set[tuple[float, float]]:
        await asyncio.gather(swap(drill.serving, drill.new), return_exceptions=True)
        return set(await asyncio.gather(*askings))

    wanted = 2.0 if goes_well else 1.0
    assert asyncio.run(swap_while_many_come()) == {(wanted, wanted)}
    assert len(askings) >= len(TAKEN_OVER)


@pytest.mark.parametrize(
    ("call", "calls"),
    [
        ("score", ["score"]),
        ("pause", TAKEN_OVER[:2]),
        ("load v2", TAKEN_OVER[:3]),
        ("resume", TAKEN_OVER[:4]),
        ("render", TAKEN_OVER[:6]),
    ],
)
def test_whatever_fails_the_old_version_is_loaded_again_and_proven(
    drill: Drill, call: str, calls: list[str]
) -> None:
    drill.engine.failing = [call]
    reason = drill.swap_failing(Refused)
    assert drill.engine.calls == calls + RETURNED
    assert drill.is_as_before
    # Not the verdict of the start: it was proven again.
    assert drill.serving.verdict is not None
    assert drill.serving.verdict.reason == "the served model is the merged model"
    assert reason in notes_of(drill.serving).named("rolling_back")[0]
    assert f"no {call} today" in reason or "failed with 500" in reason


def test_wrong_weights_are_refused_and_the_old_version_is_proven_again(drill: Drill) -> None:
    drill.engine.drifting, drill.engine.drift = "v2", 0.5
    reason = drill.swap_failing(Refused)
    assert "not the merged model" in reason
    assert drill.engine.calls[-5:] == RETURNED
    assert drill.is_as_before
    assert len(notes_of(drill.serving).named("gate_refused")) == 1
    assert len(notes_of(drill.serving).named("gate_passed")) == 1


@pytest.mark.parametrize(("dtype", "level"), [("bfloat16", 1.05), ("float32", 1.0005)])
def test_weights_that_did_not_change_are_noticed_where_the_tolerance_sees_nothing(
    store: Store, dtype: str, level: float
) -> None:
    drill = Drill(store, dtype=dtype, level=level)
    drill.engine.stale = True
    assert drill.swap_failing(Refused) == "the weights of v1 are still served"
    assert drill.is_as_before
    [numbers] = notes_of(drill.serving).named("gate_refused")
    assert "still served" in numbers


@pytest.mark.parametrize(("dtype", "level"), [("bfloat16", 1.05), ("float32", 1.0005)])
def test_weights_that_changed_a_little_are_taken(store: Store, dtype: str, level: float) -> None:
    drill = Drill(store, dtype=dtype, level=level)
    drill.swap()
    assert drill.serving.model is drill.new


def test_weights_that_did_not_change_and_are_far_off_are_refused_by_the_gate(drill: Drill) -> None:
    drill.engine.stale = True
    assert "not the merged model" in drill.swap_failing(Refused)
    assert drill.is_as_before


def test_the_same_weights_under_another_name_are_taken(store: Store) -> None:
    drill = Drill(store, level=1.0)
    drill.swap()
    assert drill.serving.model is drill.new


def test_when_neither_can_be_loaded_nobody_is_let_in(drill: Drill) -> None:
    drill.engine.failing = ["load v2", "load v1"]
    assert "v1 cannot be served again" in drill.swap_failing(EngineLost)
    assert "not proven" in (drill.door.refusal or "")
    assert drill.engine.paused


def test_an_engine_that_does_not_come_back_is_lost(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("hone_server.swap._LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(drill.engine, "resume_generation", hang)
    assert "did not come back" in drill.swap_failing(EngineLost)
    assert drill.door.refusal is not None


def test_when_the_old_version_cannot_be_proven_again_nobody_is_let_in(drill: Drill) -> None:
    drill.engine.failing = ["load v2"]
    drill.engine.drifting, drill.engine.drift = "v1", 0.5
    assert "not what is served" in drill.swap_failing(EngineLost)
    assert drill.door.refusal is not None


def test_when_the_old_version_does_not_answer_again_nobody_is_let_in(drill: Drill) -> None:
    drill.engine.failing = ["load v2", "render"]
    assert "cannot be served again" in drill.swap_failing(EngineLost)
    assert drill.door.refusal is not None


def test_an_error_that_nobody_foresaw_lets_nobody_in(drill: Drill) -> None:
    async def misshapen(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"choices": []}).encode()})

    drill.serving.app = misshapen
    drill.swap_failing(IndexError)
    assert drill.door.refusal is not None
    assert drill.door.is_open, "who waits would wait for ever"


def test_a_version_whose_probes_are_gone_before_the_engine_is_touched_is_refused(drill: Drill) -> None:
    (drill.new.path / "probes.json").unlink()
    drill.swap_failing(Refused)
    assert "load v2" not in drill.engine.calls
    assert drill.is_as_before


def test_when_a_swap_is_cancelled_nobody_is_let_in(drill: Drill) -> None:
    async def cancel_while_it_loads() -> None:
        swapping = asyncio.create_task(swap(drill.serving, drill.new))
        drill.engine.noting = lambda call: swapping.cancel() if call == "load v2" else None
        await asyncio.wait([swapping])
        assert swapping.cancelled()

    asyncio.run(cancel_while_it_loads())
    assert drill.door.refusal is not None


@pytest.mark.parametrize("fault", ["wrong", "stale"])
def test_with_a_gate_that_only_warns_a_model_that_fails_is_kept(store: Store, fault: str) -> None:
    drill = Drill(store, level=1.0005 if fault == "stale" else 2.0, gate="warn")
    drill.engine.stale = fault == "stale"
    drill.engine.drifting, drill.engine.drift = "v2", 0.0 if fault == "stale" else 0.5
    verdict = drill.swap().verdict
    assert not verdict.passed
    assert (drill.serving.model, drill.serving.verdict) == (drill.new, verdict)
    assert drill.door.is_open
    assert drill.door.refusal is None
    assert len(notes_of(drill.serving).named("gate_failed")) == 1


def test_with_a_gate_that_only_warns_an_engine_that_fails_is_refused_all_the_same(store: Store) -> None:
    drill = Drill(store, gate="warn")
    drill.engine.failing = ["load v2"]
    drill.swap_failing(Refused)
    assert drill.is_as_before


def test_when_answers_go_on_for_too_long_nothing_is_changed(store: Store) -> None:
    drill = Drill(store, drain_seconds=0.01)
    verdict = drill.serving.verdict

    async def swap_while_one_answers() -> str:
        leaving = asyncio.Event()
        asking = asyncio.create_task(drill.ask(leaving))
        await until(lambda: drill.door.inside)
        with pytest.raises(Crowded) as caught:
            await swap(drill.serving, drill.new)
        # It is open again, also to those who came meanwhile.
        assert await drill.ask() == (1.0, 1.0)
        leaving.set()
        await asking
        return str(caught.value)

    assert "1 answers" in asyncio.run(swap_while_one_answers())
    assert drill.engine.calls == []
    assert drill.is_as_before
    assert drill.serving.verdict is verdict


def test_a_server_that_waits_for_nobody_can_swap_while_nobody_asks(store: Store) -> None:
    drill = Drill(store, drain_seconds=0.0)
    drill.swap()
    assert drill.serving.model is drill.new


def test_the_same_weights_in_other_files_are_taken(store: Store) -> None:
    drill = Drill(store, level=1.0)
    drill.new = publish(store, "v3", 1.0, change=_in_another_file)
    drill.swap()
    assert drill.serving.model is drill.new


def _in_another_file(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
