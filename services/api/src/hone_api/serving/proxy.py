"""An answer that is made elsewhere, and sent on while it comes.

Nothing is parsed that need not be, and nothing is kept: a stream's events go on one by one. When the client
leaves, the server hears of it at once.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from starlette.responses import Response

from hone_api.errors import ApiError
from hone_api.metering.meter import Meter
from hone_api.services import Services
from hone_api.serving.names import Destination
from hone_api.serving.refusals import cut_short, refused
from hone_api.serving.renaming import EventStream, Renaming
from hone_api.serving.upstreams import Unreachable

_HEADERS = ("content-type", "retry-after", "openai-processing-ms")
_LIMITS = "x-ratelimit-"


class Relayed(Response):
    """Asks when it is to be sent, since only then it can see the client leave."""

    def __init__(
        self, ours: Services, to: Destination, meter: Meter, asked_for: str, path: str, body: bytes
    ) -> None:
        super().__init__()
        self._ours, self._to, self._path, self._asked = ours, to, path, body
        self._meter, self._renaming = meter, Renaming(to.model, asked_for)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request_id = scope.get("state", {}).get("request_id")
        relay = asyncio.create_task(self._relay(send, request_id))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((relay, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Does nothing to the one that is done.
            relay.cancel()
            leaving.cancel()
            await asyncio.wait((relay, leaving))
        if not relay.cancelled():
            relay.result()

    async def _relay(self, send: Any, request_id: Any) -> None:
        asking = self._ours.upstreams.ask(self._to.servers, self._path, self._asked, self._meter.sent)
        try:
            with self._meter:
                async with asking as answer:
                    await self._answer(answer, send, request_id)
        except Unreachable as error:
            self._log("server_unreachable", error.reason, request_id)
            raise

    async def _answer(self, answer: httpx.Response, send: Any, request_id: Any) -> None:
        if answer.status_code != 200:
            await self._refuse(answer, send)
        elif answer.headers.get("content-type", "").startswith("text/event-stream"):
            await self._stream(answer, send, request_id)
        else:
            body = await self._renaming.body(await _whole(answer))
            self._meter.tally.whole(body)
            await _send(send, 200, self._chosen(answer.headers), body)

    async def _refuse(self, answer: httpx.Response, send: Any) -> None:
        """In OpenAI's shape, whatever the server's is."""
        told = refused(answer.status_code, await _whole(answer), self._renaming)
        if told.is_ours:
            self._log("server_misconfigured", f"{answer.url}: {told.reason}", None)
            raise ApiError(500, told.message, kind="server_error", code="server_misconfigured")
        headers = self._chosen(answer.headers) | {"content-type": "application/json"}
        await _send(send, answer.status_code, headers, json.dumps(told.body).encode())

    async def _stream(self, answer: httpx.Response, send: Any, request_id: Any) -> None:
        await send(_start(200, self._chosen(answer.headers)))
        events, tally = EventStream(self._renaming), self._meter.tally
        tally.begun = True
        try:
            async for chunk in _chunks(answer):
                if complete := tally.events(events.take(chunk)):
                    await send({"type": "http.response.body", "body": complete, "more_body": True})
            last = tally.events(events.rest())
        except (httpx.TransportError, httpx.DecodingError, ValueError) as error:
            # What there is of the last event would run into the error's, so it is left out.
            self._log("stream_broke", f"{answer.url}: {type(error).__name__}: {error}", request_id)
            last = cut_short(self._path)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    def _chosen(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Of the server's, and this key's own limits."""
        theirs = {
            name: value for name, value in headers.items() if name in _HEADERS or name.startswith(_LIMITS)
        }
        return theirs | self._meter.headers

    def _log(self, event: str, message: str, request_id: Any) -> None:
        self._ours.reporter.tell(event, message, level="error", request_id=request_id)


async def _left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """As they come, unless somebody in between has packed them."""
    if "content-encoding" in answer.headers:
        return answer.aiter_bytes()
    # What aiter_raw does beside is counting.
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    return aiter(answer.stream)


async def _whole(answer: httpx.Response) -> bytes:
    try:
        return await answer.aread()
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Unreachable(f"{answer.url}: {type(error).__name__}: {error}") from None


def _start(status: int, headers: Mapping[str, str]) -> dict[str, object]:
    told = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": told}


async def _send(send: Any, status: int, headers: Mapping[str, str], body: bytes) -> None:
    await send(_start(status, {**headers, "content-length": str(len(body))}))
    await send({"type": "http.response.body", "body": body})
