"""What became of every row that was read: accepted + rejected + removed = read, always."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

from hone_trainer.data.rejection import Rejected, Removal, printable

_SHOWN = 10
_UNUSED, _NAME = 200, 60


@dataclass
class Counts:
    """The rows of one source."""

    name: str
    read: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    """Good records by form."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Bad ones by reason."""
    removed: Counter[str] = field(default_factory=Counter)
    """Good ones that were left out, by reason."""
    repeated: int = 0
    """Copies made by upsampling; they were not read."""
    unused: Counter[str] = field(default_factory=Counter)
    """Fields without a meaning, and in how many rows they stood."""

    def note_unused(self, names: Iterable[str]) -> None:
        """Count a row's. Where the names are themselves data, the first few hundred will do."""
        for name in names:
            short = printable(name, _NAME)
            if short in self.unused or len(self.unused) < _UNUSED:
                self.unused[short] += 1

    @property
    def accepted(self) -> int:
        return self.read - self.rejected.total() - self.removed.total()


class Tally:
    """Counts, and writes down each row that is not taken, with its place and the reason."""

    def __init__(self, names: list[str], rejected: IO[str], removed: IO[str]) -> None:
        self.sources = [Counts(name) for name in names]
        self._rejected, self._removed = rejected, removed
        self._first: list[str] = []

    @property
    def read(self) -> int:
        return sum(source.read for source in self.sources)

    @property
    def rejected(self) -> int:
        return sum(source.rejected.total() for source in self.sources)

    def reject(self, source: int, place: str, problem: Rejected) -> None:
        """`place` is `file:line`."""
        self.sources[source].rejected[problem.reason] += 1
        if len(self._first) < _SHOWN:
            self._first.append(f"{place}: {problem}")
        self._write(
            self._rejected, place, reason=problem.reason, message=str(problem), excerpt=problem.excerpt
        )

    def remove(self, source: int, place: str, reason: Removal, **more: str) -> None:
        self.sources[source].removed[reason] += 1
        self._write(self._removed, place, reason=reason, **more)

    def problems(self) -> Iterator[str]:
        """The first rejected rows, and how many more there are."""
        yield from self._first
        if more := self.rejected - len(self._first):
            yield f"… and {more} more"

    def _write(self, file: IO[str], place: str, **values: str) -> None:
        name, _, line = place.rpartition(":")
        file.write(json.dumps({"file": name, "line": int(line), **values}, ensure_ascii=False) + "\n")
