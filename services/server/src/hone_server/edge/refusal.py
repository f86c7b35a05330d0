"""Why a request goes no further, as the client is told."""

from typing import Any

from hone_server.lobby import RETRY_AFTER, openai_error

INVALID, SERVER = "invalid_request_error", "server_error"


class Refusal(Exception):
    """A request that the edge answers itself."""

    def __init__(
        self,
        message: str,
        code: str,
        *,
        status: int = 400,
        param: str | None = None,
        kind: str = INVALID,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after
        """Seconds. None: the same request will be refused again."""
        self.error = openai_error(message, kind, code, param)


class Gone(Exception):
    """The client left before its request was read."""


def not_ready(reason: str) -> Refusal:
    return Refusal(f"not ready: {reason}", "not_ready", status=503, kind=SERVER, retry_after=RETRY_AFTER)


def unknown_route(scope: Any) -> Refusal:
    method, path = str(scope.get("method", "WEBSOCKET"))[:16], scope["path"][:200]
    return Refusal(f"Unknown route: {method} {path}", "unknown_url", status=404)


def wrong_type(param: str, wanted: str) -> Refusal:
    return Refusal(f"{param} must be {wanted}", "invalid_type", param=param)


def wrong_value(param: str, reason: str) -> Refusal:
    return Refusal(f"{param} {reason}", "invalid_value", param=param)


def unsupported(param: str, reason: str) -> Refusal:
    return Refusal(f"{param} is not supported: {reason}", "unsupported_parameter", param=param)


def too_much(param: str, reason: str) -> Refusal:
    """Above a limit of this server."""
    return Refusal(f"{param}: {reason}", "limit_exceeded", param=param)
