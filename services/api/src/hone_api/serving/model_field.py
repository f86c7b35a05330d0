"""The one field of a body that is not handed on as it came: `model`. Beside it `stream_options`, if need be.

Only their own letters are replaced; numbers, escapes and spaces around it stay as they were written. Other
fields are followed to their ends: what is in them is the server's to understand or to refuse.

Nothing is made of a body. To parse 16 MiB takes seconds, in which every stream waits, also when a thread does
it, since it does not let go of the interpreter. This looks at some kilobytes at a time, and in between all
others have their turn.
"""

import asyncio
import json
import re
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace

_TURN = 0.002
"""Seconds after which others have theirs."""
_PIECE = 2**14
"""Bytes between looks at the clock; at worst each is a token."""
_MOST_FIELDS = 1000
_MOST_PROMPTS = 2**16
"""What is more counts as so many: no limit of tokens has room for their answers."""
_LONGEST = 2**14
"""Bytes of a number, or of a model's name, as it is written."""
_ESCAPED = len(r'"\u006d\u006f\u0064\u0065\u006c"')
_NOTED = {
    f'"{name}"'.encode(): name
    for name in (
        "n", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens"
    )
}  # fmt: skip
"""Where these stand is kept. Who writes them with escapes is counted by what was used alone."""
_LONGEST_NOTED = max(map(len, _NOTED))
_SPACE = re.compile(rb"[ \t\n\r]*+")
_LETTERS = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_NUMBER = re.compile(rb"true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)

_Scan = Generator[None, None, int]
"""Gives the place behind what it has gone over, or a count. It yields after every piece."""


@dataclass(frozen=True)
class ModelField:
    """A JSON object, and where in its text the model's name stands."""

    text: bytes
    value: str | None = None
    """None: it is no string, or there is none."""
    begin: int = 0
    end: int = 0
    """0: it has no such field."""
    others: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Where the values of some other fields begin and end."""
    prompts: int = 1
    """How many `prompt` has: a list may hold several, or the tokens of one."""

    def other(self, name: str) -> bytes | None:
        """One of these as it is written. None: it is not there."""
        begin, end = self.others.get(name, (0, 0))
        return self.text[begin:end] if end else None

    def renamed(self, name: str, stream_options: bytes | None = None) -> bytes:
        """The same object with another name, and with options for its stream, if they are said."""
        model = json.dumps(name).encode()
        edits = [(self.begin, self.end, model)]
        if stream_options is not None and "stream_options" in self.others:
            edits = sorted([*edits, (*self.others["stream_options"], stream_options)])
        elif stream_options is not None:
            edits = [(self.begin, self.end, model + b',"stream_options":' + stream_options)]
        pieces, at = [], 0
        for begin, end, new in edits:
            pieces += [self.text[at:begin], new]
            at = end
        return b"".join((*pieces, self.text[at:]))


async def find_model(body: bytes) -> ModelField:
    """Raises ValueError, with a sentence for whoever wrote it: no JSON object, or one with two models."""
    scan, begun = _object(body), time.perf_counter()
    while True:
        try:
            next(scan)
        except StopIteration as end:
            found: ModelField = end.value
            return found
        if time.perf_counter() - begun > _TURN:
            await asyncio.sleep(0)
            begun = time.perf_counter()


def _object(text: bytes) -> Generator[None, None, ModelField]:
    others: dict[str, tuple[int, int]] = {}
    found = ModelField(text, others=others)
    at = _past(text, 0, b"{")
    if text.startswith(b"}", at):
        _check_end(text, at)
        return found
    for _ in range(_MOST_FIELDS):
        name_end = yield from _string(text, at)
        begin = _past(text, name_end, b":")
        end = yield from _value(text, begin)
        if _is_model(text, at, name_end):
            if found.end:
                raise ValueError("The body has `model` twice")
            found = ModelField(text, _read(text, begin, end), begin, end, others)
        elif name_end - at <= _LONGEST_NOTED and (noted := _NOTED.get(text[at:name_end])) is not None:
            # Of two, parsers take the last.
            others[noted] = (begin, end)
        at = _skip(text, end)
        if not text.startswith(b",", at):
            _check_end(text, at)
            return replace(found, prompts=(yield from _prompts(text, others)))
        at = _skip(text, at + 1)
    raise ValueError(f"The body has more than {_MOST_FIELDS} fields")


def _prompts(text: bytes, others: Mapping[str, tuple[int, int]]) -> _Scan:
    begin, end = others.get("prompt", (0, 0))
    at = _skip(text, begin + 1)
    if not text.startswith(b"[", begin) or not text.startswith((b'"', b"["), at):
        return 1
    # What was gone over quickly as one value is read again, one by one.
    count = 0
    while at < end - 1 and count < _MOST_PROMPTS:
        at, count = _skip(text, (yield from _value(text, at))), count + 1
        if at < end - 1:
            at = _past(text, at, b",")
        yield
    return count


def _check_end(text: bytes, at: int) -> None:
    end = _past(text, at, b"}")
    if end != len(text):
        raise _wrong("nothing more", end)


def _value(text: bytes, at: int) -> _Scan:
    if text.startswith(b'"', at):
        return (yield from _string(text, at))
    if text.startswith((b"{", b"["), at):
        return (yield from _nested(text, at))
    found = _NUMBER.match(text, at, at + _LONGEST)
    if found is None:
        raise _wrong("a value", at)
    return found.end()


def _string(text: bytes, at: int) -> _Scan:
    if not text.startswith(b'"', at):
        raise _wrong("a name in double quotes", at)
    begin, at = at, at + 1
    while True:
        end = _over(_LETTERS, text, at)
        if text.startswith(b'"', end):
            return end + 1
        # It ends with the piece, within an escape at worst, or with the text.
        if end == at:
            raise _wrong("the end of what begins", begin)
        at = end
        yield


def _nested(text: bytes, begin: int) -> _Scan:
    depth, at = 0, begin
    while at < len(text):
        limit = at + _PIECE
        for token in _TOKEN.finditer(text, at, limit):
            start = token.start()
            mark = text[start]
            if mark in b"{[":
                depth += 1
            elif mark in b"}]":
                depth -= 1
                if not depth:
                    return start + 1
            elif token.end() == start + 1:
                # A string that goes on behind this piece.
                limit = yield from _string(text, start)
                break
        at = limit
        yield
    raise _wrong("the end of what begins", begin)


def _past(text: bytes, at: int, mark: bytes) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise _wrong(mark.decode(), at)
    return _skip(text, at + 1)


def _skip(text: bytes, at: int) -> int:
    """Past spaces, of which nobody means to send a whole piece."""
    return _over(_SPACE, text, at)


def _over(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at, at + _PIECE)
    assert found is not None, "it matches nothing too"
    return found.end()


def _is_model(text: bytes, begin: int, end: int) -> bool:
    """However it is written: parsers read `\\u006dodel` as the same name."""
    if text.startswith(b'"model"', begin):
        return True
    is_escaped = end - begin <= _ESCAPED and text.find(b"\\", begin, end) >= 0
    return is_escaped and _read(text, begin, end) == "model"


def _read(text: bytes, begin: int, end: int) -> str | None:
    """The string that stands there. None: it is no string, or longer than the name of anything."""
    if not text.startswith(b'"', begin) or end - begin > _LONGEST:
        return None
    try:
        told: str = json.loads(text[begin:end].decode())
    except UnicodeDecodeError:
        raise ValueError(f"The body is not UTF-8 behind byte {begin}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"The body is no JSON object: {error.msg}, behind byte {begin}") from None
    return told


def _wrong(expected: str, at: int) -> ValueError:
    return ValueError(f"The body is no JSON object: {expected} is expected at byte {at}")
