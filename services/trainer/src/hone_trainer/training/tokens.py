"""A dataset as the model sees it. It is made once for a dataset and a tokenizer, and kept in the store."""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from hone_contract.events import Reporter
from hone_contract.manifest import digest_of
from hone_contract.store import Store
from hone_trainer.chat.conversation import IGNORED, Sequence, to_sequences
from hone_trainer.data.tokeniser import Tokeniser
from hone_trainer.data.tokenising import by_tokenizer
from hone_trainer.plan import Plan
from hone_trainer.record import Record

# Part of the file's name: raise it when the same record would become other tokens.
_VERSION = 1
_TELL_EVERY = 2048
_SIDES, _PARTS = ("train", "eval"), ("ids", "learned", "ends")


@dataclass(frozen=True)
class TokenisedRecords:
    """Records one after another: record i is `ids[ends[i - 1]:ends[i]]`."""

    ids: torch.Tensor
    """int32, all tokens."""
    learned: torch.Tensor
    """bool, likewise: which of them are learned."""
    ends: torch.Tensor
    """int64, where each record ends."""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def tokens(self) -> int:
        """Of all records."""
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        """The record's number, its token ids and its labels (both int64)."""
        part = slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))
        ids = self.ids[part].long()
        labels = ids.masked_fill(~self.learned[part], IGNORED)
        # Nothing comes before a record's first token, so nothing can predict it.
        labels[0] = IGNORED
        return index, ids, labels

    @property
    def lengths(self) -> list[int]:
        """Tokens of each record."""
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1)).tolist()


@dataclass(frozen=True)
class TokenisedPairs:
    """Preference pairs: sequence 2i is pair i's question with the better answer, 2i + 1 with the other."""

    sequences: TokenisedRecords

    def __len__(self) -> int:
        return len(self.sequences) // 2

    @property
    def tokens(self) -> int:
        """Of all pairs."""
        return self.sequences.tokens

    def __getitem__(self, index: int) -> tuple[tuple[int, torch.Tensor, torch.Tensor], ...]:
        """The pair's two sequences, each with the pair's number, its token ids and its labels."""
        return tuple((index, *self.sequences[2 * index + side][1:]) for side in (0, 1))

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Tokens of both sequences of each pair."""
        each = self.sequences.lengths
        return list(zip(each[::2], each[1::2], strict=True))


@dataclass(frozen=True)
class Tokenised:
    """Both sides of a dataset, in preference pairs or not."""

    train: TokenisedRecords | TokenisedPairs
    eval: TokenisedRecords | TokenisedPairs

    @classmethod
    def of(cls, sides: list[TokenisedRecords], objective: str) -> "Tokenised":
        """`sides`: the sequences to learn from, and those set aside."""
        return cls(*(TokenisedPairs(side) if objective == "dpo" else side for side in sides))


def tokenise(plan: Plan, store: Store, reporter: Reporter) -> Tokenised:
    """The planned run's dataset, from the store's cache or made anew.

    Raises BadInput for a record that is too long.
    """
    tokeniser = Tokeniser(plan.base, plan.chat_template)
    identity = {
        "version": _VERSION,
        "dataset": plan.dataset.manifest.digest,
        "tokeniser": tokeniser.identity,
    }
    file = store.tokens(digest_of(identity)[:32] + ".safetensors")
    sides = _read(file)
    if sides is None:
        sides = [_tokenise(plan, name, reporter) for name in _SIDES]
        _write(file, sides)
    return Tokenised.of(sides, plan.spec.objective)


def _read(file: Path) -> list[TokenisedRecords] | None:
    try:
        tensors = load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None
    return [TokenisedRecords(*(tensors[f"{side}.{name}"] for name in _PARTS)) for side in _SIDES]


def _write(file: Path, sides: list[TokenisedRecords]) -> None:
    tensors = {
        f"{side}.{name}": getattr(records, name)
        for side, records in zip(_SIDES, sides, strict=True)
        for name in _PARTS
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    for left in file.parent.glob(f".{file.name}.*"):
        left.unlink(missing_ok=True)
    # Not the process id: two containers that share the store may both be process 1.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    save_file(tensors, temporary)
    # Another process that took this one for left by a killed process is writing the same.
    with suppress(FileNotFoundError):
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)


def _tokenise(plan: Plan, side: str, reporter: Reporter) -> TokenisedRecords:
    path = plan.dataset.path / f"{side}.jsonl"
    ids, learned, ends = [], [], []
    end = 0
    for batch in _sequences(path, plan):
        for sequence in batch:
            end += len(sequence.input_ids)
            ends.append(end)
        ids.append(torch.tensor([token for each in batch for token in each.input_ids], dtype=torch.int32))
        labels = torch.tensor([label for each in batch for label in each.labels])
        learned.append(labels != IGNORED)
        if len(ends) % _TELL_EVERY == 0:
            reporter.tell("tokenising", f"{side}: {len(ends)} conversations", conversations=len(ends))
    empty = torch.zeros(0, dtype=torch.int32)
    return TokenisedRecords(
        torch.cat([empty, *ids]),
        torch.cat([empty.bool(), *learned]),
        torch.tensor(ends, dtype=torch.int64),
    )


def _sequences(path: Path, plan: Plan) -> Iterator[list[Sequence]]:
    work = partial(_batch, max_length=plan.spec.training.max_length)
    with path.open("rb") as file:
        lines = sum(1 for _ in file)
        file.seek(0)
        yield from by_tokenizer(work, file, lines, plan.base.path, plan.chat_template)


def _batch(tokenizer: PreTrainedTokenizerBase, lines: list[bytes], max_length: int) -> list[Sequence]:
    records = [Record.from_json(line.decode()) for line in lines]
    return [each for record in records for each in to_sequences(tokenizer, record, max_length)]
