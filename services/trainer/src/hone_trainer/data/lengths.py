"""How long the records are for the base that they are to train, and how much of them is learned."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_trainer.chat_templates import load_tokenizer
from hone_trainer.conversation import see
from hone_trainer.data.cores import on_all_cores
from hone_trainer.record import Record

_AT_ONCE = 256
_WORTH_PROCESSES = 8 * _AT_ONCE


@dataclass(frozen=True)
class Length:
    """One record's, in tokens, or why the base's template cannot write it."""

    tokens: int
    learned: int
    problem: str | None = None


def measure(lines: Iterable[bytes], count: int, base: Path, template: str) -> Iterator[Length]:
    """The length of each of `count` records, in order; many are measured on all cores."""
    batches = _batches(lines)
    if count < _WORTH_PROCESSES:
        tokenizer = load_tokenizer(base, template)
        for batch in batches:
            yield from _measure(tokenizer, batch)
        return
    for found in on_all_cores(_measure_batch, batches, _begin, base, template):
        yield from found


def _batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(lines)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch


_of_this_process: list[PreTrainedTokenizerBase] = []


def _begin(base: Path, template: str) -> None:
    # The process may be the caller's own, which measures for one base after the other.
    _of_this_process[:] = [load_tokenizer(base, template)]


def _measure_batch(batch: list[bytes]) -> list[Length]:
    return _measure(_of_this_process[0], batch)


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
