"""Connections to the servers of models: kept open, and not more requests on them than a server is to have.

One base or model may have several servers; a request goes to the one that has least to do, and past one that
takes no connections. Where `hold_seconds` says so, it waits for one that is not there.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Self

import httpx

from hone_api import metrics
from hone_api.errors import ApiError, busy
from hone_api.serving.holding import NOT_THERE, Ended, Line, Room
from hone_api.settings import Settings, Upstream
from hone_contract.store import base_name

_TIMEOUT = httpx.Timeout(None, connect=5.0, write=60.0).as_dict()
"""Answers take the time that they take, and so does each of their tokens."""
_IDLE_SECONDS = 4.0
"""Shorter than the 5 s after which uvicorn, and so vLLM, closes a connection: no request meets its end."""
_SHUNNED_SECONDS = 2.0
"""How long a server that took no connection comes after the others."""
_AGAIN_SECONDS = 2
_LOOK_SECONDS = 2.0
# A machine that is gone says nothing; without probes an answer would be waited for for ever.
_PROBED = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


class Unreachable(ApiError):
    """No server took the request, or the one that had it is gone; `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            503,
            "The server of this model cannot be reached now. Try again in a moment.",
            kind="server_error",
            code="server_unreachable",
            headers={"Retry-After": str(_AGAIN_SECONDS)},
        )
        self.reason = reason


class NobodyThere(Unreachable):
    """No server took so much as the connection."""


class _Body(httpx.AsyncByteStream):
    """A request's, which tells when it is taken."""

    def __init__(self, body: bytes, begins: Callable[[], None]) -> None:
        self._body, self._begins = body, begins

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._begins()
        yield self._body


class _Link:
    """One server: its connections, and how much it has to do.

    No AsyncClient: its cookies, redirects and joined URLs took 0.27 of the 1.8 ms that a request cost.
    """

    line: "Line[_Link] | None"
    """Who waits for it and its like."""

    def __init__(self, server: Upstream, most: int, trusted: ssl.SSLContext) -> None:
        self.server, self.most, self.inside, self.shunned_until = server, most, 0, 0.0
        self.promised, self.line = 0, None
        self._base, self._trusted = httpx.URL(server.url), trusted
        self._headers = {
            "Host": self._base.netloc.decode(),
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "hone-api",
        }
        if server.key:
            self._headers["Authorization"] = f"Bearer {server.key}"
        self._urls: dict[str, httpx.URL] = {}
        limits = httpx.Limits(
            max_connections=most, max_keepalive_connections=most, keepalive_expiry=_IDLE_SECONDS
        )
        self.transport = httpx.AsyncHTTPTransport(
            verify=trusted, limits=limits, socket_options=_PROBED, trust_env=False
        )
        metrics.SERVER_REQUESTS.labels(server.url).set_function(lambda: self.inside)

    async def post(self, path: str, body: bytes, begins: Callable[[], None]) -> httpx.Response:
        """`begins` is called when there is a connection, and the server is given the body. Raises
        httpx.TransportError.
        """
        if path not in self._urls:
            self._urls[path] = self._base.join(path)
        request = httpx.Request(
            "POST", self._urls[path], headers=self._headers, content=body, extensions={"timeout": _TIMEOUT}
        )
        request.stream = _Body(body, begins)
        response = await self.transport.handle_async_request(request)
        response.request = request
        return response

    async def is_there(self) -> bool:
        """By the list of its models, which every server has when it is ready. None of the requests'
        connections is taken for it."""
        request = httpx.Request("GET", self._base.join("/v1/models"), headers=self._headers)
        try:
            async with (
                httpx.AsyncHTTPTransport(verify=self._trusted, trust_env=False) as once,
                asyncio.timeout(_LOOK_SECONDS),
            ):
                answer = await once.handle_async_request(request)
                await answer.aclose()
        except (TimeoutError, httpx.TransportError):
            return False
        return answer.status_code < 500

    @property
    def has_room(self) -> bool:
        return self.inside + self.promised < self.most

    @contextmanager
    def place(self) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            if self.line is not None:
                self.line.advance()


class Upstreams:
    """All servers, those too that are found meanwhile. Connections are made within `async with`."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._limits = settings, settings.limits
        self._links: dict[Upstream, _Link] = {}
        self._named: tuple[Upstream, ...] = ()
        """The servers of which there is no link beside theirs."""
        self._lines: dict[_Served, Line[_Link]] = {}
        self._room = Room(settings.limits.held_bytes)
        self._is_ending = False
        self._trusted: ssl.SSLContext

    async def __aenter__(self) -> Self:
        self._trusted = ssl.create_default_context()
        for server in self._settings.servers:
            if server.hold_seconds:
                # So that whoever scales by it finds it before the first request.
                metrics.HELD.labels(server.url).set(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for line in self._lines.values():
            await line.end()
        for link in self._links.values():
            await link.transport.aclose()

    def stop_holding(self, seconds: float) -> None:
        """After so many, since the api is to end: whoever waits for a server is told to come again."""
        asyncio.get_running_loop().call_later(seconds, self._close_lines)

    def _close_lines(self) -> None:
        self._is_ending = True
        for line in self._lines.values():
            line.close()

    @asynccontextmanager
    async def ask(
        self,
        servers: Sequence[Upstream],
        path: str,
        body: bytes,
        sent: Callable[[bool], None] = lambda _: None,
    ) -> AsyncIterator[httpx.Response]:
        """The beginning of an answer; the rest of it comes while it is read. Leaving ends the request.

        `sent` is told whether a server has it. Raises ApiError when all of the servers have enough to do,
        and Unreachable.
        """
        await self._forget_gone()
        asked = _Asked(path, body, sent)
        line = self._line(servers)
        async with AsyncExitStack() as inside:
            if line is None:
                _, answer = await self._first_answer(inside, servers, asked)
            else:
                with ExitStack() as held:
                    answer = await self._awaited(inside, held, line, servers, asked)
            yield answer

    def _line(self, servers: Sequence[Upstream]) -> Line[_Link] | None:
        """None: nobody waits for these."""
        if self._is_ending or not any(server.hold_seconds for server in servers):
            return None
        served = _served_by(servers[0])
        if served not in self._lines:
            self._lines[served] = Line(lambda: self._places(served), self._limits.held)
        return self._lines[served]

    def _places(self, served: "_Served") -> list[_Link]:
        """Where those that wait may go: servers come and go meanwhile."""
        line = self._lines[served]
        links = [self._link(each) for each in self._settings.every_server if _served_by(each) == served]
        for link in links:
            link.line = line
            if link.server.hold_seconds:
                metrics.HELD.labels(link.server.url).set_function(lambda: len(line))
        return links

    async def _forget_gone(self) -> None:
        """Close what leads to servers that are named no more, unless they have something to do still."""
        servers = self._settings.every_server
        if servers == self._named:
            return
        gone = [link for link in self._links.values() if link.server not in servers]
        idle = [link for link in gone if not (link.inside or link.promised)]
        if idle == gone:
            self._named = servers
        named = {server.url for server in servers}
        held = {server.url for server in servers if server.hold_seconds}
        for link in idle:
            del self._links[link.server]
            if link.server.url not in named:
                metrics.SERVER_REQUESTS.remove(link.server.url)
            if link.server.url not in held:
                metrics.HELD.remove(link.server.url)
        # Meanwhile others ask, of whom one may make a link to the same place.
        for link in idle:
            await link.transport.aclose()

    async def _awaited(
        self,
        inside: AsyncExitStack,
        held: ExitStack,
        line: Line[_Link],
        servers: Sequence[Upstream],
        asked: "_Asked",
    ) -> httpx.Response:
        """At once, if a server is there and nobody waits; else in turn.

        `held` is for what it takes while it may wait, until the answer has begun.
        """

        def number_of() -> int:
            found = line.number()
            held.enter_context(self._room.taken(len(asked.body)))
            return found

        seconds = max(server.hold_seconds for server in servers)
        until, number = asyncio.get_running_loop().time() + seconds, None
        while True:
            async with AsyncExitStack() as attempt:
                try:
                    if number is None and not line:
                        link, answer = await self._first_answer(attempt, servers, asked)
                    else:
                        number = number_of() if number is None else number
                        link = await line.turn(number, until)
                        answer = await _turned(attempt, link, asked, line)
                    if answer.status_code not in NOT_THERE or await link.is_there():
                        inside.push_async_exit(attempt.pop_all())
                        return answer
                    # A proxy before it says so, or what answers on its port while it loads.
                    line.gone(link)
                except NobodyThere:
                    pass
                except Ended:
                    raise Unreachable(
                        f"{', '.join(each.url for each in servers)}: not there in time"
                    ) from None
            asked.sent(False)
            number = number_of() if number is None else number

    async def _first_answer(
        self, inside: AsyncExitStack, servers: Sequence[Upstream], asked: "_Asked"
    ) -> tuple[_Link, httpx.Response]:
        reasons: list[str] = []
        for link in self._by_readiness(servers):
            if not link.has_room:
                continue
            try:
                return link, await _send(inside, link, asked)
            except NobodyThere as error:
                # It has seen nothing of the request, so another may have it.
                reasons.append(error.reason)
            except httpx.PoolTimeout:
                continue
        if reasons:
            raise NobodyThere("; ".join(reasons))
        raise busy("The server of this model has as many requests as it is to have at once.", _AGAIN_SECONDS)

    def _link(self, server: Upstream) -> _Link:
        if server not in self._links:
            self._links[server] = _Link(server, self._limits.requests, self._trusted)
        return self._links[server]

    def _by_readiness(self, servers: Sequence[Upstream]) -> list[_Link]:
        now = time.monotonic()
        links = [self._link(server) for server in servers]
        return sorted(links, key=lambda link: (link.shunned_until > now, link.inside))


_Served = tuple[str | None, str | None]


def _served_by(server: Upstream) -> _Served:
    """A merged model, or a base as settings and servers may both write it."""
    return (server.model, server.base and base_name(server.base))


@dataclass(frozen=True)
class _Asked:
    """A request."""

    path: str
    body: bytes
    sent: Callable[[bool], None]


async def _send(inside: AsyncExitStack, link: _Link, asked: _Asked) -> httpx.Response:
    """Raises NobodyThere, Unreachable and httpx.PoolTimeout."""
    try:
        async with AsyncExitStack() as attempt:
            attempt.enter_context(link.place())
            response = await link.post(asked.path, asked.body, lambda: asked.sent(True))
            attempt.push_async_callback(response.aclose)
            inside.push_async_exit(attempt.pop_all())
            return response
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        link.shunned_until = time.monotonic() + _SHUNNED_SECONDS
        raise NobodyThere(_told(link.server, error)) from None
    except httpx.PoolTimeout:
        raise
    except httpx.TransportError as error:
        raise Unreachable(_told(link.server, error)) from None


async def _turned(inside: AsyncExitStack, link: _Link, asked: _Asked, line: Line[_Link]) -> httpx.Response:
    """By one that was there a moment ago."""
    try:
        return await _send(inside, link, asked)
    except NobodyThere:
        line.gone(link)
        raise


def _told(server: Upstream, error: httpx.TransportError) -> str:
    return f"{server.url}: {type(error).__name__}: {error}".rstrip(": ")
