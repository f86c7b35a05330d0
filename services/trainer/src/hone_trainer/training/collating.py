"""The records of one step, laid out in forward passes."""

from dataclasses import dataclass
from typing import Any

import torch

from hone_trainer.chat.conversation import IGNORED
from hone_trainer.training.batches import packed_passes, padded_passes
from hone_trainer.training.tokens import TokenisedRecords

Item = tuple[int, torch.Tensor, torch.Tensor]
Pass = dict[str, Any]


@dataclass(frozen=True)
class Collator:
    """Makes a step of the records that a data loader hands over."""

    records: TokenisedRecords
    most: int
    """Tokens of a pass."""
    packed: bool
    size: int
    """Records of a padded pass at most."""

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """`passes`: what the model is called with; `records`: their numbers; `tokens`, `learned`: how many.

        For a process without a record, a pass from which nothing is learned.
        """
        if not items:
            _, ids, labels = self.records[0]
            items = [(-1, ids[:2], torch.full_like(labels[:2], IGNORED))]
        groups = self.groups([len(ids) for _, ids, _ in items])
        return {
            "passes": [self.lay([items[place] for place in group]) for group in groups],
            "records": [number for number, _, _ in items if number >= 0],
            "tokens": sum(len(ids) for number, ids, _ in items if number >= 0),
            "learned": sum(int((labels != IGNORED).sum()) for _, _, labels in items),
        }

    def groups(self, lengths: list[int]) -> list[list[int]]:
        """Which records share a pass, as places in `lengths`."""
        if self.packed:
            return packed_passes(lengths, self.most)
        return padded_passes(lengths, self.most, self.size)

    def lay(self, items: list[Item]) -> Pass:
        """One pass."""
        return packed(items) if self.packed else padded(items)


def packed(items: list[Item]) -> Pass:
    """One row of tokens, 1 × their number, with where each record's positions begin anew."""
    return {
        "input_ids": torch.cat([ids for _, ids, _ in items])[None],
        "labels": torch.cat([labels for _, _, labels in items])[None],
        "position_ids": torch.cat([torch.arange(len(ids)) for _, ids, _ in items])[None],
        "record_lengths": [len(ids) for _, ids, _ in items],
    }


def padded(items: list[Item]) -> Pass:
    """A matrix, records × tokens of the longest, padded on the right."""

    def fill(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    return {
        "input_ids": fill([ids for _, ids, _ in items], 0),
        "labels": fill([labels for _, _, labels in items], IGNORED),
        "attention_mask": fill([torch.ones_like(ids) for _, ids, _ in items], 0),
    }


def nothing_learned(one: Pass) -> Pass:
    """The same pass, for a process that has none left while others have."""
    return {**one, "labels": torch.full_like(one["labels"], IGNORED)}
