"""What servers answer when they do not answer, made into what OpenAI's clients expect."""

import json
from dataclasses import dataclass
from typing import Any

from hone_api.errors import INVALID
from hone_api.serving.renaming import Renaming

_BROKEN = "The server of this model went away before its answer was complete. Try again."


@dataclass(frozen=True)
class Told:
    """A server's refusal."""

    body: dict[str, dict[str, str | None]]
    message: str
    is_ours: bool = False
    """The client can do nothing about it: the api was set up wrongly."""
    reason: str = ""
    """For the log, when it is."""


def refused(status: int, body: bytes, renaming: Renaming) -> Told:
    """From a status that is not 200, and what came with it."""
    said = _said(body)
    if status in (401, 403):
        # It is the api's key that is wrong, not the client's, and the client must not take it for its own.
        return _misconfigured(f"it refuses the api's key ({status}): {said.get('message')}")
    if status < 400:
        return _misconfigured(f"status {status} is no answer of OpenAI's API")
    message = said.get("message")
    if not isinstance(message, str) or not message:
        message = f"The server of this model answered with status {status}."
    error = {
        "message": renaming.sentence(message),
        "type": _text(said.get("type")) or (INVALID if status < 500 else "server_error"),
        "param": _text(said.get("param")),
        "code": _text(said.get("code")),
    }
    return Told({"error": error}, message)


def cut_short(path: str) -> bytes:
    """An event that a client takes for an error, where an end would look as if all had been said."""
    if path.endswith("/responses"):
        event: dict[str, Any] = {"type": "error", "code": "server_error", "message": _BROKEN, "param": None}
        return b"event: error\ndata: " + json.dumps(event | {"sequence_number": 0}).encode() + b"\n\n"
    error = {"message": _BROKEN, "type": "server_error", "param": None, "code": None}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def _misconfigured(reason: str) -> Told:
    return Told({}, "The api cannot use the server of this model; its log tells more.", True, reason)


def _said(body: bytes) -> dict[str, Any]:
    """OpenAI's `error`, or the same without a name for it, or FastAPI's `detail`."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    if isinstance(told.get("error"), dict):
        return dict(told["error"])
    if isinstance(told.get("error") or told.get("detail"), str):
        return {"message": told.get("error") or told.get("detail")}
    return told


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
