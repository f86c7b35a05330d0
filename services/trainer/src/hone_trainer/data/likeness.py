"""Near-duplicates: MinHash signatures and locality-sensitive hashing, by rensa.

A text's pieces are its runs of 8 bytes, so no language needs to be cut into words. Two texts are
alike by the share of pieces that they have in common (Jaccard similarity), which is estimated from
signatures of 64 numbers (Broder 1997, "On the resemblance and containment of documents").
rensa finds the few texts that share a band of their signature with another one; only those are
compared one by one.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

import numpy
from rensa import RMinHash, RMinHashDigestMatrix, RMinHashLSH

MIN_BYTES = 200
"""A shorter text has too few pieces to tell a paraphrase from a copy."""
_PIECE = 8
_NUMBERS = 64
_SEED = 42
_AT_ONCE = 4096


class Likeness:
    """Collects texts in order, and then tells which of them are much like an earlier one."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._rows = _rows(threshold)
        self._index = RMinHashLSH(threshold, _NUMBERS, _NUMBERS // self._rows)
        self._signatures: list[RMinHashDigestMatrix] = []
        self._waiting: list[bytes] = []
        self._keys: list[int] = []

    def add(self, key: int, text: bytes) -> None:
        """Remember a text; keys rise. Short texts are passed over."""
        if len(text) < MIN_BYTES:
            return
        self._keys.append(key)
        self._waiting.append(text)
        if len(self._waiting) == _AT_ONCE:
            self._flush()

    def repeats(self) -> dict[int, int]:
        """For each text that is like an earlier one, which is kept: its key, and the earlier one's."""
        self._flush()
        kept: dict[bytes, list[tuple[int, numpy.ndarray]]] = defaultdict(list)
        found = {}
        for at, signature in self._suspects():
            bands = self._bands(signature)
            near = chain.from_iterable(kept[band] for band in bands)
            first = min((k for k, other in near if self._alike(signature, other)), default=None)
            if first is None:
                for band in bands:
                    kept[band].append((at, signature))
            else:
                found[self._keys[at]] = self._keys[first]
        return found

    def _bands(self, signature: numpy.ndarray) -> list[bytes]:
        starts = range(0, _NUMBERS, self._rows)
        return [bytes([start]) + signature[start : start + self._rows].tobytes() for start in starts]

    def _alike(self, one: numpy.ndarray, other: numpy.ndarray) -> bool:
        return float((one == other).mean()) >= self.threshold

    def _suspects(self) -> Iterator[tuple[int, numpy.ndarray]]:
        """Positions and signatures of the texts that share a band with another, in order."""
        for batch, matrix in enumerate(self._signatures):
            flags = self._index.query_duplicate_flags_matrix(matrix)
            if not any(flags):
                continue
            for row, (flag, signature) in enumerate(zip(flags, matrix.to_rows(), strict=True)):
                if flag:
                    yield batch * _AT_ONCE + row, numpy.array(signature, dtype=numpy.uint32)

    def _flush(self) -> None:
        if not self._waiting:
            return
        pieces, starts = _pieces(self._waiting)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(pieces, starts, _NUMBERS, _SEED)
        self._index.insert_matrix(matrix, len(self._signatures) * _AT_ONCE)
        self._signatures.append(matrix)
        self._waiting = []


def _rows(threshold: float) -> int:
    """Numbers a band. Of pairs at the threshold, 99 in 100 share a band of these: 1 - (1 - s^r)^(64/r)."""
    return next((rows for rows, lowest in ((8, 0.9), (4, 0.7), (2, 0.4)) if threshold >= lowest), 1)


def _pieces(texts: list[bytes]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Every run of 8 bytes of each text as a number, text after text, and where each text's begin."""
    data = b"".join(texts)
    runs = numpy.ndarray(len(data) - _PIECE + 1, dtype="<u8", buffer=data, strides=(1,))
    ends = numpy.cumsum([len(text) for text in texts])
    inside = numpy.ones(len(data), dtype=bool)
    for back in range(1, _PIECE):
        inside[ends - back] = False
    counts = numpy.array([len(text) - _PIECE + 1 for text in texts])
    starts = numpy.concatenate([[0], numpy.cumsum(counts)]).astype(numpy.uint64)
    return runs[inside[: len(runs)]], starts
