"""Near-duplicates, found by MinHash signatures and locality-sensitive hashing.

A text's pieces are its runs of 8 bytes, so no language needs to be cut into words. Two texts are
alike by the share of pieces that they have in common (Jaccard similarity), which the share of equal
numbers in their signatures estimates (Broder 1997, "On the resemblance and containment of
documents"). rensa makes the signatures. Texts that share a band of their signature with another one
are compared; the others are not.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy
from numpy.typing import NDArray
from rensa import RMinHash

MIN_BYTES = 200
"""A shorter text has too few pieces to tell a paraphrase from a copy."""
_PIECE = 8
_NUMBERS = 64
_SEED = 42
# Texts with much in common, such as a long prompt, share bands by the thousand; what is compared has a bound.
_COMPARED = 16

Numbers = NDArray[numpy.uint32]


def sign(texts: list[bytes]) -> list[bytes]:
    """The signature of each text, 64 numbers of 4 bytes; none for a text that is too short."""
    long = [text for text in texts if len(text) >= MIN_BYTES]
    if not long:
        return [b""] * len(texts)
    pieces, starts = _pieces(long)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(pieces, starts, _NUMBERS, _SEED)
    signatures = iter(numpy.array(matrix.to_rows(), dtype=numpy.uint32))
    return [next(signatures).tobytes() if len(text) >= MIN_BYTES else b"" for text in texts]


class Likeness:
    """Collects signatures in order, and then tells which texts are much like an earlier one."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._rows = _rows(threshold)
        self._keys: list[int] = []
        self._numbers = bytearray()

    def add(self, key: int, signature: bytes) -> None:
        """Remember a text's signature; keys rise. Texts without one are passed over."""
        if signature:
            self._keys.append(key)
            self._numbers += signature

    def repeats(self) -> dict[int, int]:
        """For each text that is like an earlier one, which is kept: its key, and the earlier one's."""
        signatures = numpy.frombuffer(self._numbers, numpy.uint32).reshape(-1, _NUMBERS)
        kept: dict[bytes, list[int]] = defaultdict(list)
        found = {}
        for at in numpy.flatnonzero(self._shares_a_band(signatures)).tolist():
            bands = list(self._bands(signatures[at]))
            near = sorted({other for band in bands for other in kept[band]})
            alike = (signatures[near] == signatures[at]).mean(axis=1) >= self.threshold
            if alike.any():
                found[self._keys[at]] = self._keys[near[int(alike.argmax())]]
                continue
            for band in bands:
                if len(kept[band]) < _COMPARED:
                    kept[band].append(at)
        return found

    def _shares_a_band(self, signatures: Numbers) -> NDArray[numpy.bool_]:
        """Which of them have a band that another one has, too."""
        shares = numpy.zeros(len(signatures), dtype=bool)
        for start in range(0, _NUMBERS, self._rows):
            band = numpy.zeros(len(signatures), dtype=numpy.uint64)
            for column in range(start, start + self._rows):
                # A hash of the band: FNV's prime, modulo 2**64.
                band = band * numpy.uint64(0x100000001B3) + signatures[:, column]
            order = numpy.argsort(band)
            same = band[order[1:]] == band[order[:-1]]
            shares[order[1:][same]] = shares[order[:-1][same]] = True
        return shares

    def _bands(self, signature: Numbers) -> Iterator[bytes]:
        for start in range(0, _NUMBERS, self._rows):
            yield bytes([start]) + signature[start : start + self._rows].tobytes()


def _rows(threshold: float) -> int:
    """Numbers a band. Of pairs at the threshold, 98 in 100 share a band of these: 1 - (1 - s^r)^(64/r)."""
    return next((rows for rows, lowest in ((8, 0.9), (4, 0.7), (2, 0.4)) if threshold >= lowest), 1)


def _pieces(texts: list[bytes]) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64]]:
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
