"""The edge: outermost ASGI middleware. What is not on its list does not exist, keys come first.

vLLM's own `--api-key` leaves several routes open and answers with bodies that the OpenAI SDK does
not know, so it is not used.
"""

import hmac
import json
import re
from typing import Any

from hone_server.current import current
from hone_server.lobby import openai_error

_MODEL = re.compile(r"^/v1/models/[^/]+$")
_ROUTES = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
}
_OPEN = ("/health", "/ready")
_MAX_BODY = 16 * 2**20

GATE = "hone.gate"
"""Key in the ASGI scope of the gate's own requests. A client cannot set it: it is no header."""


class Edge:
    """Refuses what it does not know, and whoever does not know a key; passes on the rest."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if refusal := _refusal(scope):
                await _answer(send, *refusal)
                return
            receive = _Capped(receive)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self.app(scope, receive, send)


def _refusal(scope: Any) -> tuple[int, dict[str, object]] | None:
    method, path = scope["method"], scope["path"]
    known = (method, path) in _ROUTES or (method == "GET" and _MODEL.match(path))
    if not known:
        return 404, openai_error(f"Unknown route: {method} {path}", "invalid_request_error", "unknown_url")
    headers = dict(scope["headers"])
    if GATE in scope:
        return None
    if current().verdict is None:
        # vLLM logs a plugin that it cannot load and goes on: without the gate nothing is served.
        return 503, openai_error("not ready: the model is not proven", "server_error", "not_ready")
    if path not in _OPEN and not _has_key(headers.get(b"authorization", b"")):
        return 401, openai_error("Incorrect API key provided", "invalid_request_error", "invalid_api_key")
    if int(headers.get(b"content-length", b"0")) > _MAX_BODY:
        return 413, openai_error(
            f"The body has more than {_MAX_BODY} bytes", "invalid_request_error", "too_large"
        )
    return None


def _has_key(authorization: bytes) -> bool:
    """Compares with every key, in a time that tells nothing of how much of one was right."""
    keys = current().settings.keys
    matches = [hmac.compare_digest(authorization, b"Bearer " + key.encode()) for key in keys]
    return not keys or any(matches)


class _Capped:
    """Cuts off a body that is longer than it was said to be."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._left = _MAX_BODY

    async def __call__(self) -> Any:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        return message if self._left >= 0 else {"type": "http.disconnect"}


async def _answer(send: Any, status: int, body: dict[str, object]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
