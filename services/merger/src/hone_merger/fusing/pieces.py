"""Rows of a matrix, some at a time, so that a product of some is that of all, bit for bit."""

from collections.abc import Iterator

# With fewer than four rows oneMKL sums in another order, as was seen with the pinned PyTorch on AVX-512.
FEWEST = 16


def pieces(rows: int, at_most: int) -> Iterator[slice]:
    """As even as can be: a rest of a few rows would be multiplied otherwise than the whole is."""
    count = max(1, -(-rows // max(FEWEST, at_most)))
    if rows < count * FEWEST:
        count = max(1, rows // FEWEST)
    for number in range(count):
        yield slice(rows * number // count, rows * (number + 1) // count)
