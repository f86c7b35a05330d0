"""CSV, TSV and Parquet: every row as an object."""

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pyarrow
import pyarrow.parquet

from hone_contract.errors import BadInput
from hone_trainer.data.files import DataFile
from hone_trainer.data.rejection import Rejected, named
from hone_trainer.data.rows import EXCERPT, MAX_RECORD, Row
from hone_trainer.data.text_files import read_blocks, read_bytes, unreadable

_ROWS_AT_ONCE = 1024


def table_rows(file: DataFile) -> Iterator[Row]:
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
        return Rejected("wrong_columns", problem, ", ".join(fields)[:EXCERPT])
    return dict(zip(names, fields, strict=True))


def parquet_rows(file: DataFile) -> Iterator[Row]:
    """The rows of a Parquet file, with their number for a line."""
    try:
        source = pyarrow.BufferReader(read_bytes(file)) if file.compression else file.path
        line = 0
        for batch in pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=_ROWS_AT_ONCE):
            for value in _values(batch):
                line += 1
                yield Row(line, value)
    except pyarrow.ArrowException as error:
        raise BadInput(f"{file.name}: is no Parquet file, or damaged: {error}") from error
    except OSError as error:
        raise unreadable(file, error) from error


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
