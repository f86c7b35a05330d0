"""The one field of a body that is not handed on as it came: `model`.

Only its own letters are replaced; numbers, escapes and spaces around it stay as they were written.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class ModelField:
    """A JSON object, and where in its text the model's name stands."""

    text: str
    value: Any
    """None: it has no such field."""
    begin: int = 0
    end: int = 0

    def renamed(self, name: str) -> bytes:
        """The same object with another name."""
        return (self.text[: self.begin] + json.dumps(name) + self.text[self.end :]).encode()


def find_model(body: bytes) -> ModelField:
    """Raises ValueError, with a sentence for whoever wrote it: no JSON object, or one with two models."""
    try:
        return _find(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"The body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"The body is no JSON object: {error}") from None
    except RecursionError:
        raise ValueError("The body is no JSON object that can be read: it is nested too deeply") from None


def _find(text: str) -> ModelField:
    found = ModelField(text, None)
    at = _after(text, 0, "{")
    if text.startswith("}", at):
        return _whole(found, at)
    while True:
        if not text.startswith('"', at):
            raise json.JSONDecodeError("Expecting a name in double quotes", text, at)
        name, at = _DECODER.raw_decode(text, at)
        begin = _after(text, at, ":")
        value, end = _DECODER.raw_decode(text, begin)
        if name == "model":
            if found.end:
                raise ValueError("The body has `model` twice")
            found = ModelField(text, value, begin, end)
        at = _skip(text, end)
        if not text.startswith(",", at):
            return _whole(found, at)
        at = _skip(text, at + 1)


def _after(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, at)
    return _skip(text, at + 1)


def _whole(found: ModelField, at: int) -> ModelField:
    end = _after(found.text, at, "}")
    if end != len(found.text):
        raise json.JSONDecodeError("Extra data", found.text, end)
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _number(_: str) -> None:
    """Numbers go on as they are written, whatever Python can make of them."""


def _constant(name: str) -> None:
    raise ValueError(f"The body is no JSON object: {name} is no number of JSON's")


_DECODER = json.JSONDecoder(parse_int=_number, parse_float=_number, parse_constant=_constant)
