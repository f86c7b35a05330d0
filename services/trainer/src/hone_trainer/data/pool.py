"""The good records of all sources, on the disk; in memory is only what decides which are taken."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy
from numpy.typing import NDArray

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
        self._digests += candidate.said
        written = self._file.write(candidate.to_json(f"{name}:{candidate.line}"))
        self._offsets.append(self._offsets[-1] + written)
        self.source.append(source)
        return len(self) - 1

    def ranks(self, seed: int, numbers: list[int]) -> NDArray[numpy.float64]:
        """A number from 0 to below 1 for each record, drawn by what it says and the seed."""
        digests = numpy.frombuffer(self._digests, numpy.uint64).reshape(-1, DIGEST_BYTES // 8)[numbers, 0]
        key = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
        mixed = digests ^ numpy.frombuffer(key, numpy.uint64)
        # SplitMix64's finaliser (Steele et al. 2014): seeds that share their first bits must not draw alike.
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            mixed = (mixed ^ (mixed >> numpy.uint64(shift))) * numpy.uint64(factor)
        return mixed / 2.0**64

    def has(self, number: int, candidate: Candidate) -> bool:
        """Whether the record equals a candidate in every character, wherever the two are from."""
        [line] = self.lines([number])
        return line == candidate.to_json(self.place(number))

    def place(self, number: int) -> str:
        """`file:line`."""
        return f"{self._names[self._name_of[number]]}:{self._lines[number]}"

    def write(self, numbers: Iterable[int], file: IO[bytes]) -> None:
        """Write records to a file. Neighbours, which most are, are copied together."""
        self._file.flush()
        for _, run in groupby(enumerate(numbers), key=lambda each: each[1] - each[0]):
            first, *rest = (number for _, number in run)
            start, end = self._offsets[first], self._offsets[(rest or [first])[-1] + 1]
            file.write(os.pread(self._file.fileno(), end - start, start))

    def lines(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Records as they will be written, each with its newline."""
        self._file.flush()
        for number in numbers:
            start, end = self._offsets[number], self._offsets[number + 1]
            yield os.pread(self._file.fileno(), end - start, start)

    def close(self) -> None:
        self._file.close()
