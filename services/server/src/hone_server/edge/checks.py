"""What single fields of a request may hold. vLLM checks them again; these are the limits that it lacks.

Types are taken strictly where a limit hangs on them: vLLM reads `"8"` as 8, so it must not pass as a text.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from hone_server.edge.refusal import too_much, unsupported, wrong_type, wrong_value
from hone_server.limits import Limits

Check = Callable[[str, Any, Limits], None]
"""Raises Refusal. Gets the field's name and its value."""

_SCALARS = (str, int, float, bool, type(None))
_MAX_INT = 2**63
_MAX_TEXT = 1024
_MAX_TOKEN_ID = 2**31
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MAX_VARIABLES = 32
# Parameters of transformers' `apply_chat_template` and of what it calls: no variables of a template.
TEMPLATE_PARAMETERS = frozenset(
    "self conversation messages chat_template tools documents add_generation_prompt continue_final_message "
    "tokenize padding truncation max_length return_tensors return_dict return_assistant_tokens_mask "
    "tokenizer tokenizer_kwargs processor_kwargs template_kwargs chat_template_kwargs kwargs".split()
)
_STRUCTURED = frozenset(
    "json regex choice grammar json_object disable_any_whitespace disable_additional_properties "
    "whitespace_pattern structural_tag".split()
)


def scalar(name: str, value: Any, _limits: Limits) -> None:
    """A number, a short text, true, false or null, of which vLLM knows more."""
    if not isinstance(value, _SCALARS):
        raise wrong_type(name, "a number, a text, true, false or null")
    if isinstance(value, int) and not -_MAX_INT <= value < _MAX_INT:
        raise wrong_value(name, "has more than 64 bits")
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise too_much(name, f"at most {_MAX_TEXT} characters")


def flag(name: str, value: Any, _limits: Limits) -> None:
    if value is not None and not isinstance(value, bool):
        raise wrong_type(name, "true or false")


def at_most(limit: Callable[[Limits], int | None]) -> Check:
    """A whole number up to a limit; null leaves it to vLLM."""

    def check(name: str, value: Any, limits: Limits) -> None:
        if value is None:
            return
        if type(value) is not int:
            raise wrong_type(name, "a whole number")
        most = limit(limits)
        # Below zero stands for no limit in vLLM.
        if value < 0 or value >= _MAX_INT:
            raise wrong_value(name, "must be at least 0")
        if most is not None and value > most:
            raise too_much(name, f"{value} is more than {most}, which is the most here")

    return check


def text(name: str, value: Any, _limits: Limits) -> None:
    if not isinstance(value, str | None):
        raise wrong_type(name, "a text")


def texts(limit: Callable[[Limits], int]) -> Check:
    """One text or a list of texts, none of them long."""

    def check(name: str, value: Any, limits: Limits) -> None:
        if value is None:
            return
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise wrong_type(name, "a text, or a list of texts")
        _check_length(name, found, limit(limits))
        if any(len(each) > limits.chars for each in found):
            raise too_much(name, f"at most {limits.chars} characters each")

    return check


def token_ids(name: str, value: Any, limits: Limits) -> None:
    if value is None:
        return
    check_token_ids(name, value)
    _check_length(name, value, limits.token_ids)


def check_token_ids(name: str, value: Any) -> None:
    # By `map` and `max`, which are fast enough for a prompt of 100,000.
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise wrong_type(name, "a list of token ids")
    if value and not 0 <= min(value) <= max(value) < _MAX_TOKEN_ID:
        raise wrong_value(name, "holds a number that is no token id")


def logit_bias(name: str, value: Any, limits: Limits) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not all(type(each) in (int, float) for each in value.values()):
        raise wrong_type(name, "an object of numbers")
    _check_length(name, value, limits.logit_bias)
    # Clamped by vLLM, but only after it was made a float.
    if any(abs(each) > _MAX_INT or len(key) > 16 for key, each in value.items()):
        raise wrong_value(name, "holds a number that is too large")


def structure(name: str, value: Any, limits: Limits) -> None:
    """A schema, a grammar, tools: whatever is compiled or rendered, and is costly when large or deep."""
    if not within_depth(value, limits.depth):
        raise too_much(name, f"nested at most {limits.depth} levels deep")
    if len(json.dumps(value, ensure_ascii=False)) > limits.grammar:
        raise too_much(name, f"at most {limits.grammar} characters")


def tools(name: str, value: Any, limits: Limits) -> None:
    if value is None:
        return
    if not isinstance(value, list):
        raise wrong_type(name, "a list")
    for place, each in enumerate(value):
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong_type(f"{name}[{place}]", "an object with a function that has a name")
    structure(name, value, limits)


def structured_outputs(name: str, value: Any, limits: Limits) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise wrong_type(name, "an object")
    if others := sorted(value.keys() - _STRUCTURED):
        raise unsupported(f"{name}.{others[0][:64]}", f"it takes {', '.join(sorted(_STRUCTURED))}")
    structure(name, value, limits)


def template_variables(name: str, value: Any, limits: Limits) -> None:
    """`chat_template_kwargs`: plain values for the model's own template, and nothing that replaces it."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise wrong_type(name, "an object")
    _check_length(name, value, _MAX_VARIABLES)
    for key, each in value.items():
        if key in TEMPLATE_PARAMETERS or not _VARIABLE.fullmatch(key):
            raise unsupported(f"{name}.{key[:64]}", "the chat template is the model's own")
        scalar(f"{name}.{key}", each, limits)


def vllm_xargs(name: str, value: Any, limits: Limits) -> None:
    """Only what Hone reads itself."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise wrong_type(name, "an object")
    if others := sorted(value.keys() - {"no_repeat_ngram_size"}):
        raise unsupported(f"{name}.{others[0][:64]}", "only no_repeat_ngram_size is")
    ngram = at_most(lambda limits: limits.ngram)
    ngram(f"{name}.no_repeat_ngram_size", value.get("no_repeat_ngram_size"), limits)


def stream_options(name: str, value: Any, limits: Limits) -> None:
    if value is None:
        return
    known = {"include_usage", "include_obfuscation", "continuous_usage_stats"}
    if not isinstance(value, dict) or not value.keys() <= known:
        raise wrong_type(name, f"an object of {', '.join(sorted(known))}")
    for key, each in value.items():
        flag(f"{name}.{key}", each, limits)


def within_depth(value: Any, depth: int) -> bool:
    """Level by level, so that depth costs no stack."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False


def _check_length(name: str, value: Any, most: int) -> None:
    if len(value) > most:
        raise too_much(name, f"{len(value)} entries are more than {most}, which is the most here")
