"""From a row to a clean record or the reason why it is none; large files are refined on all cores."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, NamedTuple

from hone_contract.data_spec import CleanSpec
from hone_trainer.data.cleaning import Candidate, clean, to_candidate
from hone_trainer.data.cores import on_all_cores
from hone_trainer.data.filters import Filter
from hone_trainer.data.formats import How, read_record
from hone_trainer.data.json_files import block_rows
from hone_trainer.data.likeness import sign
from hone_trainer.data.rejection import Rejected, printable
from hone_trainer.data.rows import EXCERPT, Block, Row

Part = tuple[str, Block | Row]
"""A file's name, and some of its rows."""
Batch = tuple[str, Block | list[Row]]
_ROWS_AT_ONCE = 512


class Refined(NamedTuple):
    """What one row came to."""

    line: int
    outcome: Candidate | Rejected | None
    """None: a good record that no filter wants."""
    unused: tuple[str, ...] = ()
    """Fields without a meaning."""


@dataclass(frozen=True)
class Refinery:
    """What is done to each row of one source, without a look at any other row."""

    how: How
    clean: CleanSpec
    filter: Filter
    likeness: bool
    """Whether records are to be compared for likeness."""

    def refine(self, row: Row) -> Refined:
        unused: set[str] = set()
        try:
            draft = read_record(row.value, self.how, unused)
            clean(draft, self.clean)
            wanted = self.filter.wants(row.value, draft)
        except Rejected as problem:
            told = Rejected(problem.reason, str(problem), excerpt(problem.excerpt or row.value))
            return Refined(row.line, told)
        return Refined(row.line, to_candidate(draft, row.line) if wanted else None, tuple(sorted(unused)))

    def refine_part(self, part: Block | list[Row]) -> list[Refined]:
        refined = [self.refine(row) for row in (block_rows(part) if isinstance(part, Block) else part)]
        texts = [each.outcome.text if isinstance(each.outcome, Candidate) else b"" for each in refined]
        signatures = sign(texts) if self.likeness else [b""] * len(texts)
        return [
            each._replace(outcome=each.outcome._replace(text=b"", signature=signature))
            if isinstance(each.outcome, Candidate)
            else each
            for each, signature in zip(refined, signatures, strict=True)
        ]

    def refine_batch(self, batch: Batch) -> tuple[str, list[Refined]]:
        name, part = batch
        return name, self.refine_part(part)

    def refine_all(self, parts: Iterable[Part], *, many: bool) -> Iterator[tuple[str, Refined]]:
        """What every row came to, in order, with its file's name. `many` rows are refined on all cores."""
        batches = _batched(parts)
        refined = on_all_cores(self.refine_batch, batches) if many else map(self.refine_batch, batches)
        for name, found in refined:
            for each in found:
                yield name, each


def _batched(parts: Iterable[Part]) -> Iterator[Batch]:
    """Single rows are signed together, as those of a block are."""
    for (name, is_block), group in groupby(parts, key=lambda part: (part[0], isinstance(part[1], Block))):
        if is_block:
            yield from ((name, part) for _, part in group if isinstance(part, Block))
        else:
            rows = (row for _, row in group if isinstance(row, Row))
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                yield name, batch


def excerpt(row: Any) -> str:
    """The beginning of a row, on one line, for a person to recognise it."""
    try:
        text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = ""
    return printable(text, EXCERPT)
