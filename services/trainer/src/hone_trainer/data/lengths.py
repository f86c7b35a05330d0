"""How long the records are for the base that they are to train, and how much of them is learned."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_trainer.chat.conversation import see
from hone_trainer.data.tokenising import by_tokenizer
from hone_trainer.record import Record


@dataclass(frozen=True)
class Length:
    """One record's, in tokens, or why the base's template cannot write it."""

    tokens: int
    learned: int
    problem: str | None = None


def measure(lines: Iterable[bytes], count: int, base: Path, template: str) -> Iterator[Length]:
    """The length of each of `count` records, in order; many are measured on all cores."""
    for found in by_tokenizer(_measure, lines, count, base, template):
        yield from found


def _measure(tokenizer: PreTrainedTokenizerBase, batch: list[bytes]) -> list[Length]:
    return [_length(tokenizer, Record.from_json(line.decode())) for line in batch]


def _length(tokenizer: PreTrainedTokenizerBase, record: Record) -> Length:
    try:
        seen = [see(tokenizer, each) for each in _sequences(record)]
    except BadInput as error:
        return Length(0, 0, str(error).removeprefix(f"{record.source}: "))
    longest = max(seen, key=lambda each: len(each.ids))
    return Length(len(longest.ids), sum(longest.learned))


def _sequences(record: Record) -> list[Record]:
    """What a model would be shown: of a preference pair, each answer in turn."""
    if record.chosen is None or record.rejected is None:
        return [record]
    return [
        replace(record, messages=record.messages + answer, chosen=None, rejected=None)
        for answer in (record.chosen, record.rejected)
    ]
