"""How long the records are for the base that they are to train, and how much of them is learned."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_trainer.chat.conversation import see_all
from hone_trainer.data.tokenising import by_tokenizer
from hone_trainer.record import Record


@dataclass(frozen=True, slots=True)
class Length:
    """One record's, in tokens, or why the base's template cannot write it."""

    tokens: int
    """Of a preference pair, of both conversations."""
    learned: int
    longest: int
    """Tokens of the longer conversation."""
    problem: str | None = None


def measure(lines: Iterable[bytes], count: int, base: Path, template: str) -> Iterator[Length]:
    """The length of each of `count` records, in order; many are measured on all cores."""
    for found in by_tokenizer(_measure, lines, count, base, template):
        yield from found


def _measure(tokenizer: PreTrainedTokenizerBase, batch: list[bytes]) -> list[Length]:
    return [_length(tokenizer, Record.from_json(line.decode())) for line in batch]


def _length(tokenizer: PreTrainedTokenizerBase, record: Record) -> Length:
    try:
        seen = see_all(tokenizer, record)
    except BadInput as error:
        return Length(0, 0, 0, str(error).removeprefix(f"{record.source}: "))
    tokens = [len(each.ids) for each in seen]
    return Length(sum(tokens), sum(sum(each.learned) for each in seen), max(tokens))
