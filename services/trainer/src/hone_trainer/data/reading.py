"""From a file to its rows, each with its line; a file is never held in memory but for JSON.

A row that cannot be read is a row with a problem, and the rows after it are read. Where nothing
after a mistake can be trusted (encoding, compression, a broken JSON array), the file is refused.
"""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any, cast

import pyarrow
import pyarrow.parquet

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.data.files import DataFile
from hone_trainer.data.rejection import Rejected, named

MAX_RECORD = 16 * 2**20
"""Bytes of a record, at most: a larger one is no example, but a file without line ends."""
_BLOCK = 2**20
_BOM = "\ufeff"
_OTHER_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_ROWS_AT_ONCE = 1024
_EXCERPT = 120


@dataclass(frozen=True, slots=True)
class Row:
    """One record as the file has it."""

    line: int
    """Where it begins, counted from 1; in Parquet and on the Hub, the row."""
    value: Any
    """A JSON value, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file."""

    first_line: int
    text: str


def read_rows(file: DataFile) -> Iterator[Row]:
    """Every record of a file, in order; a value may be a Rejected. Raises as `read_parts` does."""
    for part in read_parts(file):
        yield from block_rows(part) if isinstance(part, Block) else [part]


def read_parts(file: DataFile) -> Iterator[Block | Row]:
    """A file in parts: JSON lines in blocks that are not parsed yet, anything else in rows.

    Raises BadConfiguration when it cannot be opened, BadInput when it is refused as a whole.
    """
    if file.kind == "jsonl":
        return read_blocks(file)
    if file.kind == "json":
        return _json_rows(file)
    return _parquet_rows(file) if file.kind == "parquet" else _table_rows(file)


def read_blocks(file: DataFile) -> Iterator[Block | Row]:
    """The lines of a text file, in blocks of about a megabyte; a line that is too large is a bad row."""
    line, offset, rest, skipping = 1, 0, b"", False
    for data in _bytes_of(file):
        if skipping:
            skipped, newline, data = data.partition(b"\n")
            offset += len(skipped) + len(newline)
            line, skipping = line + len(newline), not newline
        whole, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            yield Block(line, _decode(file, whole, line, offset))
            line, offset = line + whole.count(b"\n") + 1, offset + len(whole) + 1
        if len(rest) > MAX_RECORD:
            too_large = f"has more than {MAX_RECORD // 2**20} MiB in one line"
            yield Row(line, Rejected("too_large", too_large, rest[:_EXCERPT].decode("utf-8", "replace")))
            offset, rest, skipping = offset + len(rest), b"", True
    if rest:
        yield Block(line, _decode(file, rest, line, offset))


def block_rows(block: Block) -> Iterator[Row]:
    """The records of a block of JSON lines; empty lines are passed over."""
    # Not splitlines(): it also breaks at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(block.text.split("\n"), block.first_line):
        if line and not line.isspace():
            yield Row(number, _parse_line(line))


def _bytes_of(file: DataFile) -> Iterator[bytes]:
    """The file's content, unpacked."""
    try:
        with _open(file) as stream:
            first = stream.read(_BLOCK)
            if encoding := _OTHER_BOMS.get(first[:2]):
                raise BadInput(f"{file.name}: is {encoding}, from byte 0 on; save the file as UTF-8")
            if b"\0" in first[:4]:
                raise BadInput(f"{file.name}: begins with NUL bytes, as UTF-16 does; save the file as UTF-8")
            yield first
            while data := stream.read(_BLOCK):
                yield data
    except (EOFError, zlib.error, gzip.BadGzipFile, pyarrow.ArrowException) as error:
        raise BadInput(
            f"{file.name}: cannot be unpacked, it is damaged or cut off ({error}); get the file again"
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error


def _open(file: DataFile) -> IO[bytes]:
    if file.compression == "gzip":
        return cast(IO[bytes], gzip.open(file.path))
    if file.compression == "zstd":
        unpacked: IO[bytes] = pyarrow.input_stream(file.path, compression="zstd")
        return unpacked
    return file.path.open("rb")


def _unreadable(file: DataFile, error: OSError) -> BadConfiguration | BadInput:
    if error.errno is None:
        # What a decompressor says of its input has no number.
        return BadInput(f"{file.name}: cannot be unpacked: {error}; get the file again")
    return BadConfiguration(f"{file.path}: cannot be read: {error.strerror}; name a file with --data")


def _decode(file: DataFile, data: bytes, line: int, offset: int) -> str:
    try:
        text = data.decode("utf-8")
        return text if offset else text.removeprefix(_BOM)
    except UnicodeDecodeError as error:
        at = line + data.count(b"\n", 0, error.start)
        raise BadInput(
            f"{file.name}:{at}: is not UTF-8 at byte {offset + error.start} "
            f"(0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error


# -- JSON ------------------------------------------------------------------------------------------


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
        return _DECODER.decode(line.removeprefix(_BOM))
    except json.JSONDecodeError as error:
        message = f"not JSON at column {error.colno}: {error.msg}"
        if error.pos >= len(line.rstrip()):
            message += "; a record stands on one line: join its lines, or rename the file to .json"
        return Rejected("not_json", message, line[:_EXCERPT])
    except ValueError as error:
        return _refused(error, line[:_EXCERPT])
    except RecursionError:
        return Rejected("too_deep", "is nested too deeply to be a record", line[:_EXCERPT])


def _refused(error: ValueError, excerpt: str) -> Rejected:
    """Of a value whose syntax is right."""
    if isinstance(error, _Duplicate):
        return Rejected("duplicate_key", str(error), excerpt)
    if isinstance(error, _Constant):
        return Rejected("not_json", str(error), excerpt)
    return Rejected("not_json", "has a number with thousands of digits; write it as a string", excerpt)


def _json_rows(file: DataFile) -> Iterator[Row]:
    """The elements of one array, or values one after the other, each of which may be over many lines."""
    text = "".join(_decode_all(file))
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


def _check_end(file: DataFile, text: str, at: int) -> None:
    if at >= len(text):
        raise _broken(file, text, len(text), "the file ends before the array does")
    if (after := _skip(text, at + 1)) < len(text):
        raise _broken(file, text, after, "something stands after the array")


def _decode_all(file: DataFile) -> Iterator[str]:
    data = b"".join(_bytes_of(file))
    yield _decode(file, data, 1, 0)


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
        return _refused(error, text[at : at + _EXCERPT]), end


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


# -- tables ----------------------------------------------------------------------------------------


def _table_rows(file: DataFile) -> Iterator[Row]:
    """The rows of a CSV or TSV file, as objects of texts; the first row names the columns."""
    rows = _split_rows(file)
    names = [name for header in islice(rows, 1) for name in _names(file, header)]
    for row in rows:
        yield row if isinstance(row.value, Rejected) else Row(row.line, _as_object(names, row.value))


def _split_rows(file: DataFile) -> Iterator[Row]:
    """Each row as a list of texts; empty lines are passed over."""
    csv.field_size_limit(MAX_RECORD)
    lines = _table_lines(file)
    first, above = "", 0
    for first in lines:
        if not first.isspace():
            break
        above += 1
    reader = csv.reader(chain([first], lines), delimiter=_delimiter(file, first), strict=True)
    while True:
        line = above + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if above + reader.line_num > line or "unexpected end" in str(error):
                raise _open_quotation(file, line) from error
            yield Row(line, Rejected("wrong_columns", _told(error)))
            continue
        if fields:
            yield Row(line, fields)


def _table_lines(file: DataFile) -> Iterator[str]:
    for part in read_blocks(file):
        if isinstance(part, Row):
            raise BadInput(f"{file.name}:{part.line}: {part.value}")
        for line in part.text.split("\n"):
            yield line + "\n"


def _delimiter(file: DataFile, header: str) -> str:
    if file.kind == "tsv":
        return "\t"
    return ";" if header.count(";") > header.count(",") else ","


def _open_quotation(file: DataFile, line: int) -> BadInput:
    """What stands between it and the next one may be many rows, which must not be lost."""
    return BadInput(
        f"{file.name}:{line}: a quotation mark opens in this row and never closes, or where it should not; "
        "mend it: one inside a quoted text is written twice"
    )


def _told(error: csv.Error) -> str:
    if "new-line" in str(error):
        return "has a carriage return inside; save the file with line ends of Unix or Windows"
    return f"cannot be split into columns: {error}"


def _names(file: DataFile, header: Row) -> list[str]:
    if isinstance(header.value, Rejected):
        raise BadInput(f"{file.name}:{header.line}: {header.value}")
    names: list[str] = header.value
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadInput(
            f"{file.name}:{header.line}: two columns are named {named(twice)!r}; name each column once"
        )
    return names


def _as_object(names: list[str], fields: list[str]) -> Any:
    if len(fields) != len(names):
        problem = f"has {len(fields)} columns, the header has {len(names)}"
        if any("\n" in field for field in fields):
            problem += "; it goes over several lines: does a quotation mark close where it should?"
        return Rejected("wrong_columns", problem, ", ".join(fields)[:_EXCERPT])
    return dict(zip(names, fields, strict=True))


def _parquet_rows(file: DataFile) -> Iterator[Row]:
    try:
        source = pyarrow.BufferReader(b"".join(_bytes_of(file))) if file.compression else file.path
        line = 0
        for batch in pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=_ROWS_AT_ONCE):
            for value in _values(batch):
                line += 1
                yield Row(line, value)
    except pyarrow.ArrowException as error:
        raise BadInput(f"{file.name}: is no Parquet file, or damaged: {error}") from error
    except OSError as error:
        raise _unreadable(file, error) from error


def _values(batch: pyarrow.RecordBatch) -> Iterator[Any]:
    """One by one where Python cannot hold one of them: a text that is not UTF-8, a date after year 9999."""
    try:
        values = batch.to_pylist()
    except (ValueError, OverflowError):
        yield from (_value(batch.slice(at, 1)) for at in range(batch.num_rows))
    else:
        yield from values


def _value(row: pyarrow.RecordBatch) -> Any:
    try:
        return row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return Rejected("wrong_type", f"has a value that cannot be read: {error}")
