"""JSON lines, and JSON over several lines: every value with the line that it begins in."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hone_contract.errors import BadInput
from hone_trainer.data.files import DataFile
from hone_trainer.data.rejection import Rejected, named
from hone_trainer.data.rows import EXCERPT, Block, Row
from hone_trainer.data.text_files import BOM, read_text


def block_rows(block: Block) -> Iterator[Row]:
    """The records of a block of JSON lines; empty lines are passed over."""
    # Not splitlines(): it also breaks at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(block.text.split("\n"), block.first_line):
        if line and not line.isspace():
            yield Row(number, _parse_line(line))


def json_rows(file: DataFile) -> Iterator[Row]:
    """The elements of one array, or values one after the other, each of which may be over many lines."""
    text = read_text(file)
    at = _skip(text, 0)
    inside = text.startswith("[", at)
    at = _skip(text, at + 1) if inside else at
    line, counted = 1, 0
    while at < len(text) and not (inside and text[at] == "]"):
        line, counted = line + text.count("\n", counted, at), at
        value, at = _parse_at(file, text, at)
        yield Row(line, value)
        at = _after_element(file, text, at) if inside else _skip(text, at)
    if inside:
        _check_end(file, text, at)


class _Duplicate(ValueError):
    """A key that stands twice in one object."""


class _Constant(ValueError):
    """NaN or Infinity, which Python would read."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise _Duplicate(f"has the key '{named([twice])}' twice; keep one")
    return found


def _constant(name: str) -> Any:
    raise _Constant(f"has {name}, which is no JSON; write null or a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
_LAX_DECODER = json.JSONDecoder(parse_int=str)


def _parse_line(line: str) -> Any:
    try:
        # Files with a byte order mark each may have been joined into one.
        return _DECODER.decode(line.removeprefix(BOM))
    except json.JSONDecodeError as error:
        message = f"not JSON at column {error.colno}: {error.msg}"
        if error.pos >= len(line.rstrip()):
            message += "; a record stands on one line: join its lines, or rename the file to .json"
        return Rejected("not_json", message, line[:EXCERPT])
    except ValueError as error:
        return _refused(error, line[:EXCERPT])
    except RecursionError:
        return Rejected("too_deep", "is nested too deeply to be a record", line[:EXCERPT])


def _refused(error: ValueError, excerpt: str) -> Rejected:
    """Of a value whose syntax is right."""
    if isinstance(error, _Duplicate):
        return Rejected("duplicate_key", str(error), excerpt)
    if isinstance(error, _Constant):
        return Rejected("not_json", str(error), excerpt)
    return Rejected("not_json", "has a number with thousands of digits; write it as a string", excerpt)


def _check_end(file: DataFile, text: str, at: int) -> None:
    if at >= len(text):
        raise _broken(file, text, len(text), "the file ends before the array does")
    if (after := _skip(text, at + 1)) < len(text):
        raise _broken(file, text, after, "something stands after the array")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _parse_at(file: DataFile, text: str, at: int) -> tuple[Any, int]:
    try:
        return _decode_at(text, at)
    except json.JSONDecodeError as error:
        raise _broken(file, text, error.pos, error.msg) from error
    except RecursionError:
        raise _broken(file, text, at, "nested too deeply to be a record") from None


def _decode_at(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        _, end = _LAX_DECODER.raw_decode(text, at)
        return _refused(error, text[at : at + EXCERPT]), end


def _after_element(file: DataFile, text: str, at: int) -> int:
    at = _skip(text, at)
    if text.startswith(",", at):
        after = _skip(text, at + 1)
        if text.startswith("]", after):
            raise _broken(file, text, after, "a value is missing after the comma")
        return after
    if at < len(text) and text[at] != "]":
        raise _broken(file, text, at, "Expecting ',' delimiter")
    return at


def _broken(file: DataFile, text: str, at: int, what: str) -> BadInput:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return BadInput(
        f"{file.name}:{line}: not JSON at column {column}: {what}; what follows cannot be trusted, so mend "
        "the file, or write one record a line into a .jsonl"
    )
