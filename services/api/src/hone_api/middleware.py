"""Around every request: an id, a limit to its body, a line in the log, figures, errors in OpenAI's shape."""

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Any

from hone_api import metrics
from hone_api.errors import ApiError, too_large
from hone_api.ids import new_id
from hone_api.settings import MIB, Limits
from hone_contract.events import Reporter

_FILES = re.compile(r"/v1/(files|uploads/[^/]+/parts)/?")
_CHAT = re.compile(r"/v1/(chat/completions|completions|responses)/?")
_FORM = MIB
"""What a multipart form may have beside the file."""
_QUIET = ("/metrics", "/health", "/ready")
_SHOWN = 200
"""Letters of a path, in the log."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Of HTTP; a client may send any word for one."""


@dataclass
class _Request:
    """What is known of one, for the log."""

    scope: Any
    id: str = field(default_factory=lambda: new_id("req_"))
    begun: float = field(default_factory=time.monotonic)
    received: int = 0
    status: int = 500
    """Unless an answer begins."""

    @property
    def route(self) -> str:
        """The pattern, not the path, which would be a label for every file."""
        found = self.scope.get("route")
        return str(getattr(found, "path", "none"))

    @property
    def method(self) -> str:
        said = self.scope["method"]
        return said if said in _METHODS else "other"


class Around:
    """ASGI middleware, the outermost."""

    def __init__(self, app: Any, limits: Limits, reporter: Reporter) -> None:
        self._app, self._limits, self._reporter = app, limits, reporter

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope)
        scope.setdefault("state", {})["request_id"] = request.id

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request.id.encode())]
            await send(message)

        try:
            await self._app(scope, self._limited(request, receive), answer)
        finally:
            self._tell(request)

    def _limited(self, request: _Request, receive: Any) -> Any:
        """Bodies end in time, and before they are too long."""
        most, done = self._most(request.scope["path"]), False
        late = request.begun + self._limits.whole_body_seconds

        async def take() -> Any:
            nonlocal done
            if done:
                # What comes now is only whether the client has left, for which one may wait for ever.
                return await receive()
            wait = min(self._limits.body_seconds, late - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), wait)
            except TimeoutError:
                raise ApiError(408, "The body did not come in time", code="timeout") from None
            done = not message.get("more_body", False)
            request.received += len(message.get("body", b""))
            if request.received > most:
                raise too_large(f"The body has more than {most} bytes")
            return message

        return take

    def _most(self, path: str) -> int:
        if _FILES.fullmatch(path):
            return max(self._limits.file_bytes, self._limits.part_bytes) + _FORM
        return 16 * MIB if _CHAT.fullmatch(path) else MIB

    def _tell(self, request: _Request) -> None:
        seconds, route = time.monotonic() - request.begun, request.route
        metrics.REQUESTS.labels(route, request.method, str(request.status)).inc()
        metrics.SECONDS.labels(route).observe(seconds)
        metrics.RECEIVED.labels(route).inc(request.received)
        if route in _QUIET:
            return
        caller = request.scope["state"].get("caller")
        self._reporter.tell(
            "request",
            f"{request.method} {_shown(request.scope['path'])} {request.status} in {seconds:.3f} s",
            request_id=request.id,
            route=route,
            status=request.status,
            seconds=round(seconds, 4),
            key=caller.key_id if caller else None,
        )


def _shown(path: str) -> str:
    """So that a line end in it begins no line of the log, and no terminal obeys it."""
    path = path[:_SHOWN]
    return path if path.isprintable() else ascii(path)[1:-1]
