"""ShareGPT's conversations: `from` and `value`, with the names that its many writers gave the roles."""

import json
from typing import Any

from hone_trainer.data.messages import read_messages, shown
from hone_trainer.data.rejection import Rejected
from hone_trainer.record import Messages

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def read_conversation(values: Any, unused: set[str]) -> Messages:
    """The turns as messages. A call and its result have no id there; they get one by their order.

    Raises Rejected for a turn that is none.
    """
    if not isinstance(values, list) or not values:
        raise Rejected("wrong_type", "conversations is no list of turns, or an empty one")
    if isinstance(values[0], dict) and "role" in values[0]:
        return read_messages(values, unused)
    messages: Messages = []
    for index, value in enumerate(values):
        messages.append(_turn(index, value, unused))
    return read_messages(messages, unused)


def _turn(index: int, value: Any, unused: set[str]) -> dict[str, Any]:
    place = f"conversations[{index}]"
    if not isinstance(value, dict) or not isinstance(value.get("value"), str):
        raise Rejected("wrong_type", f"{place} has no from and value, or its value is no text")
    speaker = value.get("from")
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise Rejected("unknown_role", f"{place}.from is {shown(speaker)}; known are {', '.join(_ROLES)}")
    unused.update(f"conversations[].{key}" for key in value.keys() - {"from", "value", "weight"})
    if speaker == "function_call":
        turn = {"role": "assistant", "content": "", "tool_calls": [_call(place, index, value["value"])]}
    else:
        turn = {"role": _ROLES[speaker], "content": value["value"]}
    if turn["role"] == "tool":
        turn["tool_call_id"] = _call_id(index - 1)
    if turn["role"] == "assistant" and value.get("weight") is not None:
        turn["weight"] = value["weight"]
    return turn


def _call(place: str, index: int, text: str) -> dict[str, Any]:
    try:
        called = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Rejected("wrong_type", f"{place}: the function call is no JSON: {error}") from error
    if not isinstance(called, dict) or "name" not in called:
        raise Rejected("wrong_type", f"{place}: the function call names no function")
    function = {"name": called["name"], "arguments": called.get("arguments", {})}
    return {"id": _call_id(index), "type": "function", "function": function}


def _call_id(index: int) -> str:
    return f"call_{index}"
