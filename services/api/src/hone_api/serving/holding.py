"""Requests that wait for servers that are not there, such as those that were scaled to zero.

They wait in the order in which they came. While any does, the servers are looked at; as soon as one is there,
it is given as many as it is to have at once, and each that ends lets the next one go.
"""

import asyncio
import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from hone_api.errors import busy

_EVERY = 0.25
"""Seconds between two looks."""
_AGAIN_SECONDS = 2
NOT_THERE = (502, 503, 504)
"""Statuses of what stands before a server, or of the server itself before it can answer."""


class Place(Protocol):
    """A server, to whoever waits for it."""

    promised: int
    """Requests that were let go and are not with it yet."""

    @property
    def has_room(self) -> bool: ...

    async def is_there(self) -> bool:
        """Whether it answers, and does not say that it cannot yet."""


class Ended(Exception):
    """The wait is over, and there is no server."""


P = TypeVar("P", bound=Place)


class Room:
    """For the bodies of requests that wait, whatever for."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """So many bytes of it. Raises ApiError: there is no room for them."""
        if self._taken + size > self._most:
            raise busy("As many bytes of requests wait for servers as may.", _AGAIN_SECONDS)
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size


class Line(Generic[P]):
    """Of requests for the same model or base."""

    def __init__(self, find: Callable[[], Sequence[P]], most: int) -> None:
        """`find` tells at every look the servers that there are."""
        self._find, self._most = find, most
        self._places: Sequence[P] = ()
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, asyncio.Future[P]]] = []
        """The lowest number first."""
        self._there: set[int] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def number(self) -> int:
        """For a request that is to wait; it keeps it when it waits again. Raises ApiError: too many do."""
        if len(self._waiting) >= self._most:
            raise busy("As many requests wait for the server of this model as may.", _AGAIN_SECONDS)
        return next(self._numbers)

    async def turn(self, number: int, until: float) -> P:
        """A server that is there and has room, which whoever waited takes at once.

        `until` is of the loop's clock. Raises Ended.
        """
        if self._is_closed:
            raise Ended
        mine: asyncio.Future[P] = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, (number, mine), key=lambda each: each[0])
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout_at(until):
                return await mine
        except TimeoutError:
            raise Ended from None
        finally:
            if (number, mine) in self._waiting:
                self._waiting.remove((number, mine))
            elif mine.done() and not mine.cancelled() and mine.exception() is None:
                mine.result().promised -= 1

    def advance(self) -> None:
        """Let go whom there is room for."""
        while self._waiting:
            ready = [place for place in self._places if id(place) in self._there and place.has_room]
            if not ready:
                return
            _, first = self._waiting.pop(0)
            if not first.done():
                chosen = min(ready, key=lambda place: place.promised)
                chosen.promised += 1
                first.set_result(chosen)

    def gone(self, place: P) -> None:
        """It was not there after all."""
        self._there.discard(id(place))

    def close(self) -> None:
        """Whoever waits is told to come again, and so is whoever comes."""
        self._is_closed = True
        while self._waiting:
            _, first = self._waiting.pop(0)
            if not first.done():
                first.set_exception(Ended())

    async def end(self) -> None:
        self.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))

    async def _look(self) -> None:
        while self._waiting:
            self._places = self._find()
            found = await asyncio.gather(*(place.is_there() for place in self._places))
            self._there = {id(place) for place, is_so in zip(self._places, found, strict=True) if is_so}
            self.advance()
            await asyncio.sleep(_EVERY)
