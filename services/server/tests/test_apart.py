"""A call apart is like any other to whoever asks, and nobody waits for one that hangs."""

import asyncio
from threading import Event

import pytest

from hone_server.apart import apart


def test_it_hands_over_what_was_found() -> None:
    assert asyncio.run(apart(lambda: "found")) == "found"


@pytest.mark.parametrize("kind", [OSError, ValueError, Exception])
def test_it_raises_whatever_was_raised(kind: type[Exception]) -> None:
    def fail() -> None:
        raise kind("what happened")

    with pytest.raises(kind, match="what happened"):
        asyncio.run(apart(fail))


def test_one_that_hangs_is_waited_for_by_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    hangs, over = Event(), Event()

    def hang() -> None:
        hangs.wait(20)
        over.set()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(apart(hang), 0.01)

    asyncio.run(give_up())
    assert not over.is_set()
    # What comes of it later disturbs nobody.
    hangs.set()
    assert over.wait(20)
    assert capfd.readouterr() == ("", "")
