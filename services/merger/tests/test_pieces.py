"""Pieces are all rows, in order, none of them few."""

from itertools import pairwise

import pytest

from hone_merger.fusing.pieces import FEWEST, pieces


@pytest.mark.parametrize("at_most", [0, 1, 15, 16, 17, 100, 10_000])
def test_all_rows_in_pieces_that_are_even(at_most: int) -> None:
    for rows in [*range(1, 300), 2048, 11_008, 151_936]:
        chosen = list(pieces(rows, at_most))
        assert [row for each in chosen[:3] for row in range(each.start, each.stop)] == list(
            range(chosen[:3][-1].stop)
        )
        assert chosen[-1].stop == rows
        assert all(one.stop == two.start for one, two in pairwise(chosen))
        sizes = [each.stop - each.start for each in chosen]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(rows, FEWEST)
        assert max(sizes) <= max(at_most, 2 * FEWEST)
