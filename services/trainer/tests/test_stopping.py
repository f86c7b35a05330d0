"""What SIGTERM and SIGINT do, whatever the process is at."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from hone_trainer.training.stopping import Stopped, Stopping, stopping

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def strike(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_training_it_stops_at_once(number: signal.Signals) -> None:
    with pytest.raises(Stopped, match=f"stopped by {number.name}; the same command goes on"), stopping():
        strike(number)
        pytest.fail("it went on")


def test_whoever_catches_every_exception_does_not_catch_it() -> None:
    """Libraries do while they import others, and go on without them."""
    with pytest.raises(Stopped), stopping():
        with suppress(Exception):
            strike()
        pytest.fail("it was caught")


@pytest.mark.parametrize("number", SIGNALS)
def test_while_it_trains_the_step_is_ended(number: signal.Signals) -> None:
    done = []
    with pytest.raises(Stopped), stopping() as state, state.between_steps():
        strike(number)
        assert state.requested
        done.append("step")
    assert done == ["step"]


def test_a_second_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(Stopped, match="stopped by SIGINT"), stopping() as state, state.between_steps():
        strike()
        done.append("part of a step")
        strike(signal.SIGINT)
        done.append("the rest")
    assert done == ["part of a step"]


class Finalised:
    """Python reports what its finaliser raises, and goes on."""

    def __del__(self) -> None:
        strike()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_python_swallowed_is_found_later() -> None:
    done = []
    with pytest.raises(Stopped), stopping() as state:
        Finalised()
        done.append("loading")
        with state.between_steps():
            done.append("training")
    assert done == ["loading"]


def test_one_within_another_leaves_both() -> None:
    with pytest.raises(Stopped), stopping() as outer:
        with stopping() as inner:
            strike()
        pytest.fail("it went on")
    assert (inner.requested, outer.requested) == (True, False)


def test_in_another_thread_nothing_changes() -> None:
    def handlers() -> list[object]:
        with stopping() as state:
            assert isinstance(state, Stopping)
            return [signal.getsignal(number) for number in SIGNALS]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handlers).result() == [signal.getsignal(number) for number in SIGNALS]
