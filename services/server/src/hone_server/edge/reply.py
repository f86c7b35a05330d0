"""What goes back to the client. It is an ASGI `send`: vLLM's answers pass through it, most of them unread."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from hone_server.edge.errors import Answer, reshape, reshape_event
from hone_server.edge.refusal import Refusal
from hone_server.edge.usage import Usage, read_usage

Send = Callable[[Any], Awaitable[None]]
Tell = Callable[[str], None]
"""Gets what vLLM said of a failure of its own."""


class Reply:
    """One answer: with our request id, with errors in OpenAI's shape, and with its tokens counted."""

    def __init__(self, send: Send, request_id: str, tell: Tell) -> None:
        self._send, self._tell = send, tell
        self._id = (b"x-request-id", request_id.encode())
        self._take: Send = self._pass
        self._kept: list[bytes] = []
        self.status: int | None = None
        """None: nothing was answered."""
        self.begun = False
        """The client has got something."""
        self.keeps_errors = False
        """They are no errors but a state, which is told in words of its own."""
        self.hides_usage = False
        """The chunk that tells the tokens is kept from the client."""
        self.chunks = 0
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """None: the answer did not tell, or not yet."""
        return self._usage or read_usage(b"".join(self._kept))

    async def refuse(self, refusal: Refusal) -> None:
        await self._answer(Answer(refusal.status, refusal.error, retry_after=refusal.retry_after))

    # No coroutine of its own, as `_stream` has none: a stream is thousands of messages.
    def __call__(self, message: Any) -> Awaitable[None]:
        if message["type"] == "http.response.body":
            return self._take(message)
        if message["type"] == "http.response.start":
            return self._start(message)
        return self._send(message)

    async def _start(self, message: Any) -> None:
        self.status = message["status"]
        if message["status"] >= 400 and not self.keeps_errors:
            self._take = self._collect_error
            return
        headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
        kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
        if kind.startswith(b"text/event-stream"):
            self._take = self._stream
        self.begun = True
        await self._send({**message, "headers": [*headers, self._id]})

    async def _pass(self, message: Any) -> None:
        self._kept.append(message.get("body", b""))
        await self._send(message)

    def _stream(self, message: Any) -> Awaitable[None]:
        body = message.get("body", b"")
        self.chunks += bool(body)
        # As in `usage`: quotes inside a text are escaped, so no answer holds these by itself.
        if b'"choices":[]' in body or b'"error":' in body:
            return self._send_edited(message)
        return self._send(message)

    async def _send_edited(self, message: Any) -> None:
        body = b"\n\n".join(self._edited(message["body"]))
        if body or not message.get("more_body", False):
            await self._send({**message, "body": body})

    def _edited(self, body: bytes) -> list[bytes]:
        events = []
        for event in body.split(b"\n\n"):
            if b'"choices":[]' in event:
                self._usage = read_usage(event) or self._usage
                if self.hides_usage:
                    continue
            elif event.startswith(b'data: {"error":'):
                event, hidden = reshape_event(event)
                if hidden is not None:
                    self._tell(hidden)
            events.append(event)
        # What follows the last event is empty, and alone no event.
        return events if any(events) else []

    async def _collect_error(self, message: Any) -> None:
        self._kept.append(message.get("body", b""))
        if not message.get("more_body", False):
            answer = reshape(self.status or 500, b"".join(self._kept))
            self._kept = []
            if answer.hidden is not None:
                self._tell(f"{self.status}: {answer.hidden}")
            await self._answer(answer)

    async def _answer(self, answer: Answer) -> None:
        self.status = answer.status
        body = json.dumps(answer.body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            self._id,
        ]
        if answer.retry_after is not None:
            headers.append((b"retry-after", str(answer.retry_after).encode()))
        if answer.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        self.begun = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
