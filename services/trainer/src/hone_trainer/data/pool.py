"""The good records of all sources, on the disk; in memory is only what decides which are taken."""

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile

from hone_trainer.data.cleaning import DIGEST_BYTES, Candidate


class Pool:
    """Records by number, in the order in which they were read.

    The file has no name, so a killed process leaves nothing behind.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile("w+b", dir=folder)
        self._offsets = array("Q", [0])
        self._digests = bytearray()
        self._names: list[str] = []
        self._name_of = array("L")
        self._lines = array("Q")
        self.source = array("H")
        """The number of each record's source."""

    def __len__(self) -> int:
        return len(self.source)

    def add(self, source: int, name: str, candidate: Candidate) -> int:
        """Keep a record; its number."""
        if not self._names or self._names[-1] != name:
            self._names.append(name)
        self._name_of.append(len(self._names) - 1)
        self._lines.append(candidate.line)
        self._digests += candidate.normalised
        written = self._file.write(candidate.to_json(f"{name}:{candidate.line}").encode())
        self._offsets.append(self._offsets[-1] + written)
        self.source.append(source)
        return len(self) - 1

    def digest(self, number: int) -> bytes:
        """Of the record's normalised content."""
        return bytes(self._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES])

    def place(self, number: int) -> str:
        """`file:line`."""
        return f"{self._names[self._name_of[number]]}:{self._lines[number]}"

    def lines(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Records as they will be written, each with its newline."""
        self._file.flush()
        for number in numbers:
            start, end = self._offsets[number], self._offsets[number + 1]
            yield os.pread(self._file.fileno(), end - start, start)

    def close(self) -> None:
        self._file.close()
