"""A server of models that has none: it keeps OpenAI's protocol, as fast or as badly as it is asked to.

Written by hand upon sockets, since no framework cuts a connection within an event. For bench/api_streams.py
it runs in a process of its own: `python -m api_upstream PORT`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from api_answers import Wish, events, whole

_ENDED = b"0\r\n\r\n"


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes


class _CutError(Exception):
    """The connection is to end here and now."""


@dataclass
class StandIn:
    """What it serves, and what it has seen."""

    models: list[str] = field(default_factory=list)
    listing: tuple[int, Any] | None = None
    """What it answers where it should list them."""
    keeps: bool = True
    """Whether requests are remembered."""
    seen: list[Asked] = field(default_factory=list)
    inside: int = 0
    """Requests that it is answering."""
    busiest: int = 0
    """The most that it was answering at once."""
    asleep: bool = False
    """Whether it says that it cannot answer yet."""
    abandoned: int = 0
    """Requests whose client left."""
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                asked = await _read(reader)
                if self.keeps:
                    self.seen.append(asked)
                await self._watched(asked, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, _CutError):
            pass
        finally:
            writer.transport.abort()

    async def _watched(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Nobody sends a second request before the first is answered, so what can be read now is an end."""
        self.inside += 1
        self.busiest = max(self.busiest, self.inside)
        answering = asyncio.create_task(self._answer(asked, writer))
        leaving = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.abandoned += 1
                raise _CutError
            answering.result()
        finally:
            self.inside -= 1
            answering.cancel()
            leaving.cancel()
            await asyncio.wait((answering, leaving))

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/health":
            await _send(writer, 200, {})
            return
        if self.asleep:
            await _send(writer, 503, {"error": {"message": "not ready", "code": "not_ready"}})
            return
        if asked.path == "/v1/models":
            listed = {"object": "list", "data": [{"id": name} for name in self.models]}
            await _send(writer, *(self.listing or (200, listed)))
            return
        body = json.loads(asked.body)
        wish = Wish(**body.get("stand_in", {}))
        if wish.status != 200:
            await asyncio.sleep(wish.first)
            await _send(writer, wish.status, wish.refusal, wish.headers)
        elif body.get("stream"):
            await _stream(writer, asked.path, body, wish)
        else:
            await asyncio.sleep(wish.first)
            if wish.dies_after is not None:
                raise _CutError
            await _send(writer, 200, whole(asked.path, body, wish), wish.headers)


@contextmanager
def stand_in(*models: str, port: int = 0) -> Iterator[StandIn]:
    """One in a thread of this process, at this port or at a free one."""
    here = StandIn(list(models))
    loop, up, down = asyncio.new_event_loop(), asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with here.listening(port):
            up.set()
            await down.wait()

    def work() -> None:
        loop.run_until_complete(live())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    thread = Thread(target=work)
    thread.start()
    asyncio.run_coroutine_threadsafe(up.wait(), loop).result()
    try:
        yield here
    finally:
        loop.call_soon_threadsafe(down.set)
        thread.join()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(first.split()[1], headers, body)


async def _send(
    writer: asyncio.StreamWriter, status: int, told: Any, headers: dict[str, str] | None = None
) -> None:
    body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
    head = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
    writer.write(_head(status, head) + body)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, path: str, body: dict[str, Any], wish: Wish) -> None:
    """Every event has its time, so that a slow reader does not make the next ones late."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    head = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
    writer.write(_head(200, head | wish.headers))
    for number, event in enumerate(events(path, body, wish)):
        if number == wish.dies_after:
            # Half of it, so that whoever hands it on has something to leave out.
            writer.write(_chunk(event[: len(event) // 2]))
            await writer.drain()
            raise _CutError
        # What comes behind the last token is there with the first of it.
        due = begin + wish.first + min(number, wish.tokens) * wish.pace
        await asyncio.sleep(max(0.0, due - loop.time()))
        for at in range(0, len(event), wish.split or len(event)):
            writer.write(_chunk(event[at : at + (wish.split or len(event))]))
            await asyncio.sleep(0)
        await writer.drain()
    writer.write(_ENDED)
    await writer.drain()


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} .", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _for_ever(port: int) -> None:
    async with StandIn(keeps=False).listening(port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_for_ever(int(sys.argv[1])))
