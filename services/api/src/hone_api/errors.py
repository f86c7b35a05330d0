"""Errors as OpenAI's API tells them: a status, and a body that the SDK turns into an exception.

The body is `{"error": {"message", "type", "param", "code"}}` with all four keys, which the SDK's
`APIStatusError` reads (openai/_client.py).
"""

from collections.abc import Mapping
from typing import Literal

from starlette.exceptions import HTTPException

INVALID = "invalid_request_error"


class ApiError(HTTPException):
    """A request that is refused; the message is for whoever made it.

    FastAPI takes every other exception out of a body that is being read for a body that cannot be read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.message, self.kind, self.param, self.code = message, kind, param, code

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """What the client sent is wrong, and will be wrong again."""
    return ApiError(400, message, param=param, code=code)


def missing(what: str, name: str, param: str | None = None, code: str | None = None) -> ApiError:
    """No such thing, or one of another project: nobody can tell which."""
    return ApiError(404, f"No such {what}: {name[:128]}", param=param, code=code)


def too_large(message: str, param: str | None = None) -> ApiError:
    return ApiError(413, message, param=param, code="too_large")


def too_fast(
    message: str, kind: Literal["requests", "tokens"], headers: Mapping[str, str], *, ever: bool = True
) -> ApiError:
    """A key is at its limit. `ever`: the same request may come later, which the SDK does by itself."""
    told = dict(headers) if ever else {**headers, "x-should-retry": "false"}
    return ApiError(429, message, kind=kind, code="rate_limit_exceeded", headers=told)


def busy(message: str, seconds: int) -> ApiError:
    """Nothing is wrong with the request; the SDK tries it again by itself."""
    return ApiError(
        503, message, kind="server_error", code="overloaded", headers={"Retry-After": str(seconds)}
    )
