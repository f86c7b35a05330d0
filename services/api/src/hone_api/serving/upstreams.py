"""Connections to the servers of models: kept open, and not more requests on them than a server is to have.

One base or model may have several servers; a request goes to the one that has least to do, and past one that
takes no connections.
"""

import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Self

import httpx

from hone_api.errors import ApiError, busy
from hone_api.settings import Settings, Upstream

_TIMEOUT = httpx.Timeout(None, connect=5.0, write=60.0).as_dict()
"""Answers take the time that they take, and so does each of their tokens."""
_IDLE_SECONDS = 4.0
"""Shorter than the 5 s after which uvicorn, and so vLLM, closes a connection: no request meets its end."""
_SHUNNED_SECONDS = 2.0
"""How long a server that took no connection comes after the others."""
_AGAIN_SECONDS = 2
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


class _Link:
    """One server: its connections, and how much it has to do.

    No AsyncClient: its cookies, redirects and joined URLs took 0.27 of the 1.8 ms that a request cost.
    """

    def __init__(self, server: Upstream, most: int, trusted: ssl.SSLContext) -> None:
        self.server, self.most, self.inside, self.shunned_until = server, most, 0, 0.0
        self._base = httpx.URL(server.url)
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

    async def post(self, path: str, body: bytes) -> httpx.Response:
        """Raises httpx.TransportError."""
        if path not in self._urls:
            self._urls[path] = self._base.join(path)
        request = httpx.Request(
            "POST", self._urls[path], headers=self._headers, content=body, extensions={"timeout": _TIMEOUT}
        )
        response = await self.transport.handle_async_request(request)
        response.request = request
        return response

    @contextmanager
    def place(self) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class Upstreams:
    """All servers of the settings. Connections are made within `async with`."""

    def __init__(self, settings: Settings) -> None:
        self._servers, self._most = settings.servers, settings.limits.requests
        self._links: dict[Upstream, _Link] = {}

    async def __aenter__(self) -> Self:
        trusted = ssl.create_default_context()
        self._links = {server: _Link(server, self._most, trusted) for server in self._servers}
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in self._links.values():
            await link.transport.aclose()

    @asynccontextmanager
    async def ask(self, servers: Sequence[Upstream], path: str, body: bytes) -> AsyncIterator[httpx.Response]:
        """The beginning of an answer; the rest of it comes while it is read. Leaving ends the request.

        Raises ApiError when all of the servers have enough to do, and Unreachable.
        """
        async with AsyncExitStack() as inside:
            yield await self._first_answer(inside, servers, path, body)

    async def _first_answer(
        self, inside: AsyncExitStack, servers: Sequence[Upstream], path: str, body: bytes
    ) -> httpx.Response:
        reasons: list[str] = []
        for link in self._by_readiness(servers):
            if link.inside >= link.most:
                continue
            try:
                return await _send(inside, link, path, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # It has seen nothing of the request, so another may have it.
                link.shunned_until = time.monotonic() + _SHUNNED_SECONDS
                reasons.append(_told(link.server, error))
            except httpx.PoolTimeout:
                continue
            except httpx.TransportError as error:
                raise Unreachable(_told(link.server, error)) from None
        if reasons:
            raise Unreachable("; ".join(reasons))
        raise busy("The server of this model has as many requests as it is to have at once.", _AGAIN_SECONDS)

    def _by_readiness(self, servers: Sequence[Upstream]) -> list[_Link]:
        now = time.monotonic()
        links = [self._links[server] for server in servers]
        return sorted(links, key=lambda link: (link.shunned_until > now, link.inside))


async def _send(inside: AsyncExitStack, link: _Link, path: str, body: bytes) -> httpx.Response:
    async with AsyncExitStack() as attempt:
        attempt.enter_context(link.place())
        response = await link.post(path, body)
        attempt.push_async_callback(response.aclose)
        inside.push_async_exit(attempt.pop_all())
        return response


def _told(server: Upstream, error: httpx.TransportError) -> str:
    return f"{server.url}: {type(error).__name__}: {error}".rstrip(": ")
