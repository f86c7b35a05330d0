"""Conversations and prompts: text only, in the shapes of OpenAI's API."""

import json
from typing import Any

from hone_server.edge.checks import check_token_ids, scalar, within_depth
from hone_server.edge.refusal import Refusal, too_much, unsupported, wrong_type, wrong_value
from hone_server.limits import Limits

_ROLES = ("system", "developer", "user", "assistant", "tool")
# Answers of the SDK hold these; a client that sends one back says nothing by them.
_EMPTY = ("audio", "function_call", "annotations")
_TEXTS = ("name", "tool_call_id", "refusal", "reasoning", "reasoning_content")
_KNOWN = {"role", "content", "tool_calls", *_TEXTS, *_EMPTY}
_MAX_CALLS = 128


def messages(name: str, value: Any, limits: Limits) -> None:
    """Drops what says nothing from them, in place. Raises Refusal."""
    if not isinstance(value, list):
        raise wrong_type(name, "a list")
    parts = sum(len(each.get("content") or ()) for each in value if _has_parts(each))
    if len(value) + parts > limits.messages:
        raise too_much(name, f"{len(value) + parts} messages and parts are more than {limits.messages}")
    for place, each in enumerate(value):
        _check_message(f"{name}[{place}]", each, limits)


def _has_parts(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("content"), list)


def _check_message(name: str, message: Any, limits: Limits) -> None:
    if not isinstance(message, dict):
        raise wrong_type(name, "an object")
    if message.get("role") not in _ROLES:
        raise wrong_value(f"{name}.role", f"must be one of {', '.join(_ROLES)}")
    if others := message.keys() - _KNOWN:
        other = min(others)[:64]
        raise Refusal(f"Unknown parameter: {name}.{other}", "unknown_parameter", param=f"{name}.{other}")
    for empty in _EMPTY:
        if message.pop(empty, None):
            raise unsupported(f"{name}.{empty}", "text only")
    for text in _TEXTS:
        if not isinstance(message.get(text), str | None):
            raise wrong_type(f"{name}.{text}", "a text")
    _check_content(f"{name}.content", message.get("content"))
    _check_calls(f"{name}.tool_calls", message.get("tool_calls"), limits)


def _check_content(name: str, content: Any) -> None:
    if isinstance(content, str | None):
        return
    if not isinstance(content, list):
        raise wrong_type(name, "a text, or a list of parts")
    for place, part in enumerate(content):
        _check_part(f"{name}[{place}]", part)


def _check_part(name: str, part: Any) -> None:
    """vLLM finds media by their names, whatever the part's type says; so none but these two pass."""
    if not isinstance(part, dict):
        raise wrong_type(name, "an object with a type")
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        raise unsupported(f"{name}.type", "text only")
    if others := part.keys() - {"type", kind, "prompt_cache_breakpoint"}:
        raise unsupported(f"{name}.{min(others)[:64]}", "text only")
    if not isinstance(part.get(kind), str):
        raise wrong_type(f"{name}.{kind}", "a text")
    part.pop("prompt_cache_breakpoint", None)


def _check_calls(name: str, calls: Any, limits: Limits) -> None:
    if calls is None:
        return
    if not isinstance(calls, list) or len(calls) > _MAX_CALLS:
        raise wrong_type(name, f"a list of at most {_MAX_CALLS}")
    for place, call in enumerate(calls):
        _check_call(f"{name}[{place}]", call, limits)


def _check_call(name: str, call: Any, limits: Limits) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise wrong_type(name, "a call of a function")
    # `index` stands in chunks that a client put together.
    if call.keys() - {"id", "type", "function", "index"} or function.keys() - {"name", "arguments"}:
        raise wrong_type(name, "an object of id, type and function, with name and arguments")
    scalar(f"{name}.id", call.get("id"), limits)
    scalar(f"{name}.function.name", function.get("name"), limits)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        raise wrong_type(f"{name}.function.arguments", "a text")
    if not _is_shallow(arguments, limits.depth):
        raise too_much(f"{name}.function.arguments", f"nested at most {limits.depth} levels deep")


def _is_shallow(text: str, depth: int) -> bool:
    """vLLM parses it for the template, and fails on what is nested a thousand times."""
    if text.count("{") + text.count("[") <= depth:
        return True
    try:
        return within_depth(json.loads(text), depth)
    except RecursionError:
        return False
    except ValueError:
        # Not JSON: vLLM makes an empty object of it.
        return True


def prompt(name: str, value: Any, limits: Limits) -> None:
    """One text, token ids, or a list of either. Raises Refusal."""
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not value:
        raise wrong_type(name, "a text, token ids, or a list of either")
    kinds = set(map(type, value))
    if kinds == {list}:
        for each in value:
            check_token_ids(name, each)
    elif kinds != {str}:
        check_token_ids(name, value)
    if count_prompts(value) > limits.prompts:
        raise too_much(name, f"{len(value)} prompts are more than {limits.prompts}")


def count_prompts(value: Any) -> int:
    return len(value) if isinstance(value, list) and value and isinstance(value[0], str | list) else 1
