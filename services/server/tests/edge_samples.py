"""A stand-in for vLLM behind the edge, and a client before it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from hone_server.edge import Edge

KEY = {"Authorization": "Bearer second-key"}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USAGE = {"prompt_tokens": 7, "total_tokens": 12, "completion_tokens": 5}
MESSAGES = [{"role": "user", "content": "What is Hone?"}]


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "faq", "messages": MESSAGES} | changes


def completion(**changes: Any) -> dict[str, Any]:
    return {"model": "faq", "prompt": "Hone is"} | changes


@dataclass
class Asked:
    """One request, as vLLM would get it."""

    scope: dict[str, Any]
    body: bytes

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.scope["headers"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Any], Awaitable[None]]


def answer(status: int, body: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> Answer:
    """One whole body; JSON unless it is bytes, written as vLLM writes it."""
    content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()

    async def send_it(send: Any) -> None:
        sent = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": [*sent, *headers]})
        await send({"type": "http.response.body", "body": content})

    return send_it


def stream(*events: Any, together: bool = False) -> Answer:
    """Events as vLLM sends them: each in a message of its own, unless `together`."""
    lines = [f"data: {each if isinstance(each, str) else _compact(each)}\n\n".encode() for each in events]

    async def send_it(send: Any) -> None:
        kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for body in [b"".join(lines)] if together else lines:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_it


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def chunk(text: str) -> dict[str, Any]:
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": text}}],
    }


USAGE_CHUNK = {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
ANSWERED = answer(200, {"id": "c", "choices": [{"text": "sharp"}], "usage": USAGE})


@dataclass
class Model:
    """Notes what reaches it, and answers what it is told to."""

    answer: Answer = ANSWERED
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.asked.append(Asked(scope, body))
        await self.answer(send)

    @property
    def last(self) -> Asked:
        return self.asked[-1]


async def send_to(edge: Any, method: str, path: str, **arguments: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=edge, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **arguments)


def ask(model: Model, path: str, body: Any, **arguments: Any) -> httpx.Response:
    """A request for an answer, with a right key; bytes are sent as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **KEY, **arguments.pop("headers", {})}
    return asyncio.run(send_to(Edge(model), "POST", path, content=content, headers=headers, **arguments))


def get(model: Model, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return asyncio.run(send_to(Edge(model), "GET", path, headers=KEY if headers is None else headers))


async def call(app: Any, scope: dict[str, Any], *parts: bytes) -> list[dict[str, Any]]:
    """Every message that comes back to a request that httpx would not make."""
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def http_scope(method: str, path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(errors="replace"),
        "query_string": b"",
        "headers": list(headers),
    }


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error; asserts OpenAI's shape."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["code"], str | None)
    assert isinstance(error["param"], str | None)
    assert response.headers["x-request-id"].startswith("req-")
    return error


def refused(response: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    error = error_of(response)
    assert (response.status_code, error["code"]) == (status, code), error
    return error
