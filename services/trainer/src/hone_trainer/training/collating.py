"""The records of one step, laid out in forward passes."""

from dataclasses import dataclass
from typing import Any

import torch

from hone_trainer.chat.conversation import IGNORED
from hone_trainer.training.batches import packed_passes, padded_passes
from hone_trainer.training.tokens import TokenisedPairs, TokenisedRecords

Item = tuple[int, torch.Tensor, torch.Tensor]
"""A record's number, its token ids and its labels."""
Pass = dict[str, Any]


@dataclass(frozen=True)
class Collator:
    """Makes a step of the records that a data loader hands over."""

    records: TokenisedRecords | TokenisedPairs
    most: int
    """Tokens of a pass."""
    packed: bool
    size: int
    """Records of a padded pass at most."""

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        """`passes`: what the model is called with; `records`: their numbers; `tokens`: how many; `counted`:
        how much the loss is a mean over.

        For a process without a record, a pass from which nothing is learned.
        """
        every = [each for item in items for each in self.sequences(item)]
        laid = items or [self.nothing()]
        groups = self.groups([self.length(item) for item in laid])
        return {
            "passes": [self.lay([laid[place] for place in group]) for group in groups],
            "records": list(dict.fromkeys(number for number, _, _ in every)),
            "tokens": sum(len(ids) for _, ids, _ in every),
            "counted": self.count(items),
        }

    def sequences(self, item: Any) -> list[Item]:
        """What the model is shown of a record."""
        return [item]

    def length(self, item: Any) -> Any:
        """As `lengths` of the records has it."""
        return len(item[1])

    def count(self, items: list[Any]) -> int:
        """How much of these the loss is a mean over: their learned tokens."""
        return sum(int((labels != IGNORED).sum()) for _, _, labels in items)

    def nothing(self) -> Any:
        """A short record from which nothing is learned."""
        return _nothing(self.records[0])

    def groups(self, lengths: list[Any]) -> list[list[int]]:
        """Which records share a pass, as places in `lengths`."""
        if self.packed:
            return packed_passes(lengths, self.most)
        return padded_passes(lengths, self.most, self.size)

    def lay(self, items: list[Any]) -> Pass:
        """One pass."""
        every = [each for item in items for each in self.sequences(item)]
        return packed(every) if self.packed else padded(every)


class PairCollator(Collator):
    """Likewise of preference pairs, which are never parted: their sequences stand one after another."""

    def sequences(self, item: Any) -> list[Item]:
        return list(item)

    def length(self, item: Any) -> Any:
        return tuple(len(ids) for _, ids, _ in item)

    def count(self, items: list[Any]) -> int:
        """The pairs."""
        return len(items)

    def nothing(self) -> Any:
        return tuple(_nothing(each) for each in self.records[0])

    def groups(self, lengths: list[Any]) -> list[list[int]]:
        whole = sum if self.packed else _padded
        return super().groups([whole(pair) for pair in lengths])


def _padded(pair: tuple[int, int]) -> int:
    """Tokens of both sequences, with the padding of the shorter one."""
    return 2 * max(pair)


def _nothing(item: Any) -> Item:
    number, ids, labels = item
    return number, ids[:2], torch.full_like(labels[:2], IGNORED)


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
