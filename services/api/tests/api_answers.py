"""Bodies as a server of models has them, and what is asked of the stand-in beside an answer."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
WORDS = ("One", " two", " three", " four")


@dataclass(frozen=True)
class Wish:
    """How the stand-in is to answer: `stand_in` in a request's body, so that requests stay apart."""

    tokens: int = len(WORDS)
    first: float = 0
    """Seconds until the first token."""
    pace: float = 0
    """Seconds from one token to the next."""
    split: int = 0
    """Bytes that are sent at once. 0: an event."""
    usage: dict[str, int] = field(default_factory=lambda: USAGE)
    dies_after: int | None = None
    """Events after which the connection is cut."""
    status: int = 200
    refusal: Any = None
    """The body, with a status that is not 200."""
    headers: dict[str, str] = field(default_factory=dict)


def whole(path: str, body: dict[str, Any], wish: Wish) -> dict[str, Any]:
    """An answer at once."""
    text = "".join(word(number) for number in range(wish.tokens))
    if path.endswith("/responses"):
        return _response(body["model"], text, "completed", wish)
    if path.endswith("/chat/completions"):
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        kind = "chat.completion"
    else:
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "text": text}
        kind = "text_completion"
    return {
        "id": "cmpl-1",
        "object": kind,
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": wish.usage,
    }


def events(path: str, body: dict[str, Any], wish: Wish) -> Iterator[bytes]:
    """An answer in pieces; the first of them is the first token."""
    if path.endswith("/responses"):
        yield from _response_events(body["model"], wish)
        return
    chat = path.endswith("/chat/completions")
    told = {"id": "cmpl-1", "object": "chat.completion.chunk" if chat else "text_completion", "created": 1}
    told["model"] = body["model"]
    for number in range(wish.tokens):
        choice: dict[str, Any] = {"index": 0, "finish_reason": None, "logprobs": None}
        if chat:
            choice["delta"] = {"content": word(number)}
        else:
            choice |= {"text": word(number), "finish_reason": "stop"}
        yield event(told | {"choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event(told | {"choices": [], "usage": wish.usage})
    yield b"data: [DONE]\n\n"


def word(number: int) -> str:
    return WORDS[number % len(WORDS)]


def event(told: dict[str, Any], name: str = "") -> bytes:
    """As vLLM writes it, without spaces."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(told, separators=(',', ':'))}\n\n".encode()


def _response_events(model: str, wish: Wish) -> Iterator[bytes]:
    told = {
        "type": "response.created",
        "sequence_number": 0,
        "response": _response(model, "", "in_progress", wish),
    }
    yield event(told, "response.created")
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    for number in range(wish.tokens):
        told = {"type": "response.output_text.delta", "sequence_number": number + 1, "delta": word(number)}
        yield event(told | where, "response.output_text.delta")
    text = "".join(word(number) for number in range(wish.tokens))
    told = {"type": "response.completed", "sequence_number": wish.tokens + 1}
    yield event(told | {"response": _response(model, text, "completed", wish)}, "response.completed")


def _response(model: str, text: str, status: str, wish: Wish) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": status,
        "output": [message | {"content": [content]}] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": wish.usage if text and "input_tokens" in wish.usage else None,
    }
