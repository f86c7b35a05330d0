"""Ctrl-C ends a wait, whenever it comes."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from chat_process import Terminal
from chat_script import Script
from chat_server import FakeServer

from hone_chat.waiting import Waiter


@pytest.fixture
def waiter() -> Iterator[Waiter]:
    with Waiter() as waiter:
        yield waiter


async def _done(value: int) -> int:
    return value


async def _press_and_sleep(ended: list[str]) -> None:
    asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
    try:
        await asyncio.sleep(60)
    finally:
        ended.append("cleanly")


def test_it_ends_the_wait_that_is_on_and_none_after(waiter: Waiter) -> None:
    ended: list[str] = []
    with waiter.interruptible():
        with pytest.raises(KeyboardInterrupt):
            waiter.wait(_press_and_sleep(ended))
        assert ended == ["cleanly"]
        assert waiter.wait(_done(3)) == 3


def test_between_two_waits_it_ends_the_next(waiter: Waiter) -> None:
    with waiter.interruptible():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            waiter.wait(asyncio.sleep(60))
        assert waiter.wait(_done(3)) == 3


def test_where_nothing_waits_the_second_one_ends_what_is_on(waiter: Waiter) -> None:
    with waiter.interruptible():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_one_that_came_after_all_was_done_is_forgotten(waiter: Waiter) -> None:
    with waiter.interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with waiter.interruptible():
        assert waiter.wait(_done(3)) == 3


def test_a_parent_that_ignores_it_is_obeyed(waiter: Waiter) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with waiter.interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_whenever_it_comes_it_stops_the_answer_and_not_the_program(
    plain: Terminal, server: FakeServer
) -> None:
    for _ in range(20):
        server.script = Script(pieces=["Count", *map(str, range(2000))], never_ends=True)
        plain.enter("Count")
        plain.wait_for("Count")
        plain.type("\x03")
        plain.wait_for("Stopped. What was said so far is kept.")
