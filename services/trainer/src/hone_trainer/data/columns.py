"""What a table's columns become: `prompt: "{input}\\n{context}"`, or just a column's name.

A place in a template is a column, with `.name` and `[index]` for what is inside it, and
`[max name]` for the element of a list that has the largest `name`. It is a look-up and no
expression: nothing of a record is ever run.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from hone_trainer.data.rejection import Rejected, named

_PLACE = re.compile(r"\{([^{}]+)\}|\{\{|\}\}")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\[max ([^\]]+)\]")


def map_columns(
    columns: Mapping[str, str], row: Mapping[str, Any], read: Callable[[Any], Any] = lambda value: value
) -> dict[str, Any]:
    """The fields that `columns` make of a row, where `read` is done to what is found in it.

    Raises Rejected when a column is missing or no text.
    """
    return {target: _value(template, row, read) for target, template in columns.items()}


def fill(template: str, row: Mapping[str, Any]) -> str:
    """The template with every place filled in; `{{` and `}}` stand for braces."""
    return "".join(text for text, _ in parts(template, row))


def parts(template: str, row: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """The filled template in parts: text of its own with None, what was filled in with its place."""
    return [
        (text, None) if place is None else (_text(place, _look_up(place, row)), place)
        for text, place in _split(template)
    ]


def places(template: str) -> list[str]:
    """The places in a template, in order."""
    return [place for _, place in _split(template) if place is not None]


@cache
def _split(template: str) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    at = 0
    for match in _PLACE.finditer(template):
        found.append((template[at : match.start()], None))
        found.append(("", match[1]) if match[1] else (match[0][0], None))
        at = match.end()
    return [(text, place) for text, place in [*found, (template[at:], None)] if text or place]


def _value(template: str, row: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
    """A bare name keeps lists and objects, such as messages, as they are."""
    if "{" in template:
        return "".join(text if place is None else read(text) for text, place in parts(template, row))
    value = _look_up(template, row)
    return read(value if isinstance(value, list | dict) else _text(template, value))


def _look_up(place: str, row: Mapping[str, Any]) -> Any:
    if place in row:
        return row[place]
    value: Any = row
    at = 0
    while at < len(place):
        step = _STEP.match(place, at)
        value = _step(value, step) if step else None
        if step is None or value is None:
            raise Rejected("missing_column", f"has no column {place!r}; it has {named(row)}")
        at = step.end()
    return value


def _step(value: Any, step: re.Match[str]) -> Any:
    name, index, largest = step.groups()
    if name is not None:
        return value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, list) or not value:
        return None
    if index is not None:
        return value[int(index)] if int(index) < len(value) else None
    return max(value, key=lambda each: _number(each, largest))


def _number(value: Any, name: str) -> float:
    found = value.get(name) if isinstance(value, Mapping) else None
    try:
        number = float(found) if isinstance(found, int | float | str) else -math.inf
    except (ValueError, OverflowError):
        return -math.inf
    return -math.inf if math.isnan(number) else number


def _text(place: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    raise Rejected("wrong_type", f"column {place!r} is no text; name what is inside it, as in {place}.name")
