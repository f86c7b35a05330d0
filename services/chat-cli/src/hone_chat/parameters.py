"""/params: the sampling settings of a conversation, shown and changed."""

from dataclasses import replace
from typing import Any

from hone_chat.errors import BadInput
from hone_chat.presets import PRESETS, find_preset, name_of
from hone_chat.rule import Number
from hone_chat.sampling import RULES, Sampling
from hone_chat.spelling import did_you_mean

_UNSET = "none"


def described(sampling: Sampling) -> str:
    """The settings, one a line."""
    values = sampling.given()
    width = max(map(len, RULES)) + 2
    lines = [f"{name:<{width}}{values.get(name, 'left to the server')}" for name in RULES]
    preset = name_of(sampling)
    return "\n".join([*lines, f"This is the preset {preset}."] if preset else lines)


def changed(sampling: Sampling, wishes: str) -> Sampling:
    """The settings after `name=value` and presets' names, in their order; a BadInput if one is wrong."""
    for wish in wishes.split():
        name, equals, value = wish.partition("=")
        sampling = _set(sampling, name.replace("-", "_"), value) if equals else _preset(name)
    return sampling


def _preset(name: str) -> Sampling:
    if name in PRESETS:
        return find_preset(name)
    if name in RULES:
        raise BadInput(f"{name} needs a value: /params {name}=VALUE. {_UNSET} leaves it to the server.")
    hint = did_you_mean(name, [*PRESETS, *RULES])
    raise BadInput(f"There is no preset {name!r}; there is: {', '.join(PRESETS)}.{hint}")


def _set(sampling: Sampling, name: str, text: str) -> Sampling:
    if name not in RULES:
        hint = did_you_mean(name, RULES)
        raise BadInput(f"There is no setting {name!r}; there is: {', '.join(RULES)}.{hint}")
    values: dict[str, Any] = {name: None if text == _UNSET else _value(name, text)}
    return replace(sampling, **values)


def _value(name: str, text: str) -> Number:
    try:
        return RULES[name].read(text)
    except ValueError as error:
        raise BadInput(f"{name} {error}; {_UNSET} leaves it to the server.") from None
