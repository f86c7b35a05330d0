"""One record as a file has it, and a part of a file that is not parsed yet."""

from dataclasses import dataclass
from typing import Any

MAX_RECORD = 16 * 2**20
"""Bytes of a record, at most: a larger one is no example, but a file without line ends."""
MAX_WHOLE = 2 * 2**30
"""Bytes of a file that must be held in memory, at most."""
EXCERPT = 120
"""Characters of a rejected row that are kept, at most."""


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
