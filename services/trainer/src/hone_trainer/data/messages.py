"""OpenAI's messages: what each may hold, and in which order they may stand.

The format is that of OpenAI's fine-tuning files (https://platform.openai.com/docs/guides/supervised-fine-tuning).
"""

import json
import math
import re
from typing import Any

from hone_trainer.data.rejection import Rejected
from hone_trainer.record import Message, Messages

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
MAX_DEPTH = 64
"""Levels of a tool's description, at most: whoever reads the record later has less of a stack left."""
_PLAIN = {"role", "content"}
_KNOWN = {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "refusal"}
# Tab and newlines are text. A lone surrogate is half of a character and cannot be written as UTF-8.
_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def read_messages(values: Any, unused: set[str]) -> Messages:
    """Messages as a record has them. Keys without a meaning are added to `unused`.

    Raises Rejected for a message that is not one; their order is `check_order`'s affair.
    """
    if not isinstance(values, list) or not values:
        raise Rejected("wrong_type", "messages is no list of messages, or an empty one")
    return [_message(f"messages[{index}]", value, unused) for index, value in enumerate(values)]


def check_order(messages: Messages, *, answered: bool = True) -> None:
    """System first, then user and assistant in turns, tool results after the calls that they answer.

    Raises Rejected. `answered`: whether the assistant must have the last word, or else not.
    """
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    open_calls: set[str] = set()
    before = "assistant"
    for index, message in enumerate(turns, len(messages) - len(turns)):
        role = message["role"]
        _check_turn(index, role, before, open_calls)
        if role == "tool":
            _close_call(index, message, open_calls)
        elif role == "assistant":
            open_calls = {call["id"] for call in message.get("tool_calls", [])}
        before = role
    if not turns or (before == "assistant") is not answered:
        missing = "an assistant message: there is no answer to learn" if answered else "the user's turn"
        raise Rejected("no_answer" if answered else "role_order", f"must end with {missing}")
    if answered and not any(m["role"] == "assistant" and m.get("weight") != 0 for m in turns):
        raise Rejected("no_answer", "every answer has weight 0: there is nothing to learn")


def check_text(place: str, text: str) -> None:
    """Raises Rejected for characters that are no text."""
    if bad := _BAD_CHARACTER.search(text):
        code = ord(bad[0])
        if code >= 0xD800:
            raise Rejected(
                "lone_surrogate", f"{place} has half of a character (a lone surrogate, \\u{code:04x})"
            )
        raise Rejected("control_character", f"{place} has the control character U+{code:04X}; remove it")


def check_value(place: str, value: Any, depth: int = MAX_DEPTH) -> None:
    """Raises Rejected when a JSON value has anywhere what `check_text` refuses, or what JSON cannot hold."""
    if not depth:
        raise Rejected("too_deep", f"{place} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        check_text(place, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Rejected("wrong_type", f"{place} has {value}, which is no JSON")
    elif isinstance(value, dict):
        for name, each in value.items():
            check_text(place, name)
            check_value(place, each, depth - 1)
    elif isinstance(value, list):
        for each in value:
            check_value(place, each, depth - 1)


def shown(value: Any) -> str:
    """A value in an error message, cut short."""
    try:
        text = json.dumps(value, ensure_ascii=True, default=str)
    except RecursionError:
        return "nested too deeply to be shown"
    return text if len(text) <= 40 else text[:40] + "…"


def _check_turn(index: int, role: str, before: str, open_calls: set[str]) -> None:
    if role == "system":
        raise Rejected("role_order", f"messages[{index}]: a system message may only come first")
    if role == "tool":
        if not open_calls:
            raise Rejected("tool_order", f"messages[{index}]: a tool's result without a call before it")
        return
    if open_calls:
        raise Rejected(
            "tool_order", f"messages[{index}]: comes before the result of call {shown(min(open_calls))}"
        )
    expected = "user" if before == "assistant" else "assistant"
    if role != expected:
        raise Rejected(
            "role_order", f"messages[{index}] is the {role}'s; user and assistant must take turns, user first"
        )


def _close_call(index: int, message: Message, open_calls: set[str]) -> None:
    if message["tool_call_id"] not in open_calls:
        raise Rejected(
            "tool_order", f"messages[{index}] answers {shown(message['tool_call_id'])}, which was not called"
        )
    open_calls.discard(message["tool_call_id"])


def _message(place: str, value: Any, unused: set[str]) -> Message:
    if not isinstance(value, dict):
        raise Rejected("wrong_type", f"{place} is no object with role and content")
    if value.get("function_call"):
        raise Rejected("wrong_type", f"{place}.function_call is no longer OpenAI's form; write tool_calls")
    role = _role(place, value)
    message = {"role": role, "content": _content(place, role, value)}
    if value.keys() != _PLAIN or role == "tool":
        _add_rest(place, message, value)
        unused.update(f"messages[].{key}" for key in value.keys() - _KNOWN)
    return message


def _role(place: str, value: dict[str, Any]) -> str:
    role = value.get("role")
    known = ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise Rejected("unknown_role", f"{place}.role is {shown(role)}; known are {', '.join(ROLES)}")
    return known


def _content(place: str, role: str, value: dict[str, Any]) -> str:
    content = value.get("content")
    if isinstance(content, list):
        content = _joined(place, content)
    if content is None and role == "assistant":
        content = "" if value.get("tool_calls") else value.get("refusal")
    if not isinstance(content, str):
        raise Rejected("wrong_type", f"{place}.content is no text, but {shown(content)}")
    check_text(f"{place}.content", content)
    return content


def _joined(place: str, parts: list[Any]) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Rejected("wrong_type", f"{place}.content has a part that is no text: {shown(part)}")
        texts.append(part["text"])
    return "".join(texts)


def _add_rest(place: str, message: Message, value: dict[str, Any]) -> None:
    role = message["role"]
    if value.get("name") is not None:
        message["name"] = _word(f"{place}.name", value["name"])
    if value.get("tool_calls"):
        if role != "assistant":
            raise Rejected("tool_order", f"{place}: only the assistant may call tools")
        message["tool_calls"] = _tool_calls(place, value["tool_calls"])
    if role == "tool":
        if not isinstance(value.get("tool_call_id"), str):
            raise Rejected("tool_order", f"{place}.tool_call_id is missing: which call does it answer?")
        message["tool_call_id"] = _word(f"{place}.tool_call_id", value["tool_call_id"])
    if value.get("weight") is not None:
        _add_weight(place, message, value["weight"])


def _add_weight(place: str, message: Message, weight: Any) -> None:
    if weight not in (0, 1) or isinstance(weight, bool):
        raise Rejected("wrong_type", f"{place}.weight is {shown(weight)}; it may be 0 or 1")
    if message["role"] == "assistant":
        message["weight"] = int(weight)


def _tool_calls(place: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise Rejected("wrong_type", f"{place}.tool_calls is no list")
    read = [_tool_call(f"{place}.tool_calls[{index}]", call) for index, call in enumerate(calls)]
    if len({call["id"] for call in read}) < len(read):
        raise Rejected("tool_order", f"{place}.tool_calls has one id twice, so no result can tell them apart")
    return read


def _tool_call(place: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Rejected("wrong_type", f"{place} names no function")
    if not isinstance(call.get("id"), str):
        raise Rejected("wrong_type", f"{place}.id is missing, so no result can answer it")
    name = _word(f"{place}.function.name", function["name"])
    arguments = _arguments(f"{place}.function.arguments", function.get("arguments", "{}"))
    return {
        "id": _word(f"{place}.id", call["id"]),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _arguments(place: str, arguments: Any) -> str:
    """As JSON text, as OpenAI has them; some write the object itself."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Rejected("wrong_type", f"{place} is no JSON object: {shown(arguments)}")
    check_value(place, value)
    return arguments if isinstance(arguments, str) else json.dumps(value, ensure_ascii=False)


def _word(place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Rejected("wrong_type", f"{place} is no text, but {shown(value)}")
    check_text(place, value)
    return value
