"""Who is let in, who waits, and who is refused."""

import asyncio
from contextlib import suppress

import pytest
from swap_samples import until

from hone_server.door import Door


class Visitor:
    """Passes through a door, and stays until it is told to leave."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.inside = False
        self.refusal: str | None = None
        self.leaving = asyncio.Event()
        self.task = asyncio.create_task(self._visit())

    async def _visit(self) -> None:
        async with self.door.pass_through():
            self.inside, self.refusal = True, self.door.refusal
            await self.leaving.wait()
        self.inside = False

    async def leave(self) -> None:
        self.leaving.set()
        await self.task


async def _let_others_go_on() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_those_inside_are_counted() -> None:
    async def drill() -> None:
        door = Door()
        visitors = [Visitor(door), Visitor(door)]
        await until(lambda: door.inside == 2)
        assert door.waiting == 0
        for left, visitor in enumerate(visitors, 1):
            await visitor.leave()
            assert door.inside == 2 - left

    asyncio.run(drill())


def test_an_error_inside_is_a_way_out_too() -> None:
    async def drill() -> None:
        door = Door()
        with suppress(ZeroDivisionError):
            async with door.pass_through():
                raise ZeroDivisionError
        assert door.inside == 0
        await door.close(5)

    asyncio.run(drill())


def test_it_closes_when_the_last_has_left() -> None:
    async def drill() -> None:
        door = Door()
        visitors = [Visitor(door), Visitor(door)]
        await until(lambda: door.inside == 2)
        closing = asyncio.create_task(door.close(5))
        await until(lambda: not door.is_open)
        await visitors[0].leave()
        await _let_others_go_on()
        assert not closing.done()
        await visitors[1].leave()
        assert await closing >= 0
        assert not door.is_open

    asyncio.run(drill())


def test_who_comes_to_a_closed_door_waits_until_it_opens() -> None:
    async def drill() -> None:
        door = Door()
        await door.close(5)
        visitor = Visitor(door)
        await until(lambda: door.waiting == 1)
        assert (door.inside, visitor.inside) == (0, False)
        door.open()
        await until(lambda: visitor.inside)
        assert (door.waiting, door.inside) == (0, 1)
        await visitor.leave()

    asyncio.run(drill())


def test_who_comes_while_it_closes_waits_though_others_are_inside() -> None:
    async def drill() -> None:
        door = Door()
        first = Visitor(door)
        await until(lambda: first.inside)
        closing = asyncio.create_task(door.close(5))
        await until(lambda: not door.is_open)
        second = Visitor(door)
        await until(lambda: door.waiting == 1)
        await first.leave()
        await closing
        assert (door.inside, second.inside) == (0, False)
        door.open()
        await until(lambda: second.inside)
        await second.leave()

    asyncio.run(drill())


def test_nobody_slips_in_when_it_is_opened_and_closed_at_once() -> None:
    async def drill() -> None:
        door = Door()
        await door.close(5)
        visitor = Visitor(door)
        await until(lambda: door.waiting == 1)
        # Those who wait are woken by this, and have their turn only after the next line.
        door.open()
        await door.close(5)
        await _let_others_go_on()
        assert (door.inside, door.waiting, visitor.inside) == (0, 1, False)
        door.open()
        await until(lambda: visitor.inside)
        await visitor.leave()

    asyncio.run(drill())


def test_who_gives_up_waiting_is_not_counted() -> None:
    async def drill() -> None:
        door = Door()
        await door.close(5)
        visitor = Visitor(door)
        await until(lambda: door.waiting == 1)
        visitor.task.cancel()
        await asyncio.wait([visitor.task])
        assert (door.waiting, door.inside) == (0, 0)

    asyncio.run(drill())


def test_at_the_deadline_it_is_open_again() -> None:
    async def drill() -> None:
        door = Door()
        first = Visitor(door)
        await until(lambda: first.inside)
        with pytest.raises(TimeoutError):
            await door.close(0.01)
        assert door.is_open
        assert (door.inside, door.refusal) == (1, None)
        second = Visitor(door)
        await until(lambda: second.inside)
        await first.leave()
        await second.leave()

    asyncio.run(drill())


def test_an_empty_door_closes_though_nobody_is_given_any_time() -> None:
    async def drill() -> None:
        door = Door()
        await door.close(0)
        assert not door.is_open

    asyncio.run(drill())


def test_when_closing_is_cancelled_it_is_open_again() -> None:
    async def drill() -> None:
        door = Door()
        visitor = Visitor(door)
        await until(lambda: visitor.inside)
        closing = asyncio.create_task(door.close(5))
        await until(lambda: not door.is_open)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        assert door.is_open
        await visitor.leave()

    asyncio.run(drill())


def test_closing_is_cancelled_though_the_last_leaves_at_the_same_moment() -> None:
    async def drill() -> None:
        door = Door()
        async with door.pass_through():
            closing = asyncio.create_task(door.close(5))
            await until(lambda: not door.is_open)
            await _let_others_go_on()
        closing.cancel()
        await asyncio.wait([closing])
        # Whoever follows `live` would go on for ever, and hold up the end of the process.
        assert closing.cancelled()
        assert door.is_open

    asyncio.run(drill())


def test_who_waits_when_it_is_shut_passes_and_finds_the_refusal() -> None:
    async def drill() -> None:
        door = Door()
        await door.close(5)
        visitor = Visitor(door)
        await until(lambda: door.waiting == 1)
        door.shut("out of order")
        await until(lambda: visitor.inside)
        assert visitor.refusal == "out of order"
        await visitor.leave()
        # The edge refuses, so nobody may hang at the door itself.
        async with door.pass_through():
            assert door.refusal == "out of order"

    asyncio.run(drill())


def test_opening_ends_a_refusal() -> None:
    door = Door()
    door.shut("out of order")
    door.open()
    assert door.is_open
    assert door.refusal is None


def test_waiting_until_it_is_empty_closes_nothing() -> None:
    async def drill() -> None:
        door = Door()
        visitor = Visitor(door)
        await until(lambda: visitor.inside)
        waiting = asyncio.create_task(door.wait_until_empty(5))
        await _let_others_go_on()
        assert door.is_open
        assert not waiting.done()
        await visitor.leave()
        await waiting
        assert door.is_open

    asyncio.run(drill())
