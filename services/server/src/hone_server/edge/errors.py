"""vLLM's errors in OpenAI's shape: all four names, a code that is a text or null, and nothing of the inside.

vLLM's own have the status as their code; FastAPI's and Starlette's have other shapes.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from hone_server.edge.refusal import INVALID, SERVER
from hone_server.lobby import RETRY_AFTER, openai_error

_GENERIC = "The server failed on this request; its log tells more under the request's id"
_BUSY = "The server cannot take this request now; try again later"
_CONTEXT = re.compile(r"maximum (context|model) length|model's maximum", re.IGNORECASE)
_MAX_MESSAGE = 2000


@dataclass(frozen=True)
class Answer:
    """An error, as it leaves."""

    status: int
    body: dict[str, object]
    hidden: str | None = None
    """What vLLM said. None: the client is told."""
    retry_after: int | None = None
    """Seconds. None: trying again would not help."""


def reshape(status: int, raw: bytes) -> Answer:
    """Of a whole answer with a status of 400 or more."""
    told = _read(raw)
    message = str(told.get("message") or "The request failed")[:_MAX_MESSAGE]
    if status == 503:
        return Answer(503, openai_error(_BUSY, SERVER, "overloaded"), message, RETRY_AFTER)
    # 501: vLLM lacks what was asked for, whoever asks.
    if status >= 500 and status != 501:
        return Answer(status, openai_error(_GENERIC, SERVER, None), message)
    status = 400 if status in (422, 501) else status
    return Answer(status, openai_error(message, INVALID, _code(status, told, message), _param(told)))


def reshape_event(event: bytes) -> tuple[bytes, str | None]:
    """Of an error amid a stream: the event anew, and what it no longer tells."""
    told = _read(event.removeprefix(b"data: "))
    code = told.get("code")
    status = code if isinstance(code, int) and code >= 400 else 500
    answer = reshape(status, json.dumps({"error": told}).encode())
    return b"data: " + json.dumps(answer.body).encode(), answer.hidden


def _read(raw: bytes) -> dict[str, Any]:
    """The error's fields; a text where the body is another's."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return {"message": raw[:_MAX_MESSAGE].decode(errors="replace")}
    if not isinstance(body, dict):
        return {"message": raw[:_MAX_MESSAGE].decode(errors="replace")}
    error = body.get("error", body.get("detail", body))
    return error if isinstance(error, dict) else {"message": str(error)}


def _code(status: int, told: dict[str, Any], message: str) -> str | None:
    if isinstance(told.get("code"), str):
        return str(told["code"])
    if status == 404:
        return "model_not_found"
    return "context_length_exceeded" if _CONTEXT.search(message) else None


def _param(told: dict[str, Any]) -> str | None:
    param = told.get("param")
    return str(param).removeprefix("body.")[:_MAX_MESSAGE] if param else None
