"""Sequences of unequal length, as models take them together."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def pad(rows: list[list[int]], *, left: bool, value: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal length as one matrix (rows × longest), and its attention mask."""
    width = max(map(len, rows))
    padded, mask = [], []
    for row in rows:
        gap = width - len(row)
        padded.append([value] * gap + row if left else row + [value] * gap)
        mask.append([0] * gap + [1] * len(row) if left else [1] * len(row) + [0] * gap)
    return torch.tensor(padded), torch.tensor(mask)
