"""Bodies: read whole, one JSON object, and written anew for vLLM."""

import json
from collections import Counter
from typing import Any

from hone_server.edge.refusal import Gone, Refusal


async def read_body(receive: Any, limit: int) -> bytes:
    """Raises Refusal when it is longer than the limit, Gone when the client left."""
    parts: list[bytes] = []
    left = limit
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        left -= len(part)
        if left < 0:
            raise too_long(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def too_long(limit: int) -> Refusal:
    return Refusal(f"The body has more than {limit} bytes", "too_large", status=413)


def parse_object(body: bytes) -> dict[str, Any]:
    """Strict JSON in UTF-8: a name that stands twice, which parsers read differently, is refused too."""
    try:
        value = _DECODER.decode(body.decode())
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError as error:
        raise _invalid(str(error)) from None
    if not isinstance(value, dict):
        raise _invalid("it is no object")
    return value


def write_object(value: dict[str, Any]) -> bytes:
    """What vLLM reads."""
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise _invalid("it holds half of a surrogate pair, which is no character") from None
    except ValueError:
        raise _invalid("it holds a number that is too large") from None


def replayed(body: bytes, receive: Any) -> Any:
    """A `receive` that gives the body at once, and then whatever the client still does."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Any:
        return waiting.pop() if waiting else await receive()

    return give


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:64]!r} stands twice in one object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _invalid(reason: str) -> Refusal:
    return Refusal(f"The body cannot be read as JSON: {reason}", "invalid_json")
