"""`hone-trainer prepare`: whatever a spec names becomes a sealed dataset, and every row is accounted for.

Nothing is written that has a name before all of the data was read and found good.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_contract.manifest import digest_of
from hone_contract.store import Store
from hone_trainer.data.choosing import Choice, choose
from hone_trainer.data.gathering import Gathering
from hone_trainer.data.pool import Pool
from hone_trainer.data.rejection import Rejected, printable
from hone_trainer.data.report import Lengths, make_report, tell_report
from hone_trainer.data.report_page import SHOWN, report_page
from hone_trainer.data.rows import EXCERPT
from hone_trainer.data.sources import Source, open_sources
from hone_trainer.data.tally import Tally
from hone_trainer.data.tokeniser import Tokeniser

if TYPE_CHECKING:
    from hone_trainer.data.lengths import Length

# Part of a dataset's id: raise it when the same files would be prepared differently.
_VERSION = 3


@dataclass(frozen=True)
class Counting:
    """With what records are counted in tokens, and how many they may have."""

    known: Tokeniser | None
    """None: the base is not in the store."""
    fetch: Callable[[], Tokeniser] | None
    """Brings the base into the store, once the data was found good. None: tokens are then not counted."""
    longest: int
    """Tokens of a record, at most; the data may ask for fewer."""


def prepare(data: DataSpec, folder: Path, store: Store, counting: Counting, reporter: Reporter) -> Artifact:
    """Validate, clean, mix, split and seal what `data` names, relative to `folder`, and tell the report.

    The dataset's id comes from the files' content and what is done to it, so preparing twice does
    nothing. Raises BadInput or BadConfiguration before anything is written.
    """
    dataset = _prepare(data, folder, store, counting, reporter)
    tell_report(reporter, dataset)
    return dataset


def _prepare(data: DataSpec, folder: Path, store: Store, counting: Counting, reporter: Reporter) -> Artifact:
    sources = open_sources(data, folder)
    if counting.known is not None and (found := _find(data, sources, counting.known, counting, store)):
        return found
    with _work(data, sources, store) as work:
        work.gather(reporter)
        tokeniser = counting.known or (counting.fetch() if counting.fetch is not None else None)
        if found := _find(data, sources, tokeniser, counting, store):
            return found
        lengths = work.count(tokeniser, _longest(data, counting))
        choice = choose(data, sources, work.pool, work.left_out, work.tally)
        return work.seal(_plan(data, sources, tokeniser, counting), choice, lengths, store)


@dataclass
class _Work:
    """A dataset in the making."""

    data: DataSpec
    sources: list[Source]
    pool: Pool
    tally: Tally
    rejected: IO[str]
    removed: IO[str]
    left_out: set[int]

    def gather(self, reporter: Reporter) -> None:
        """Read all there is. Raises BadInput when too much of it is bad."""

        def progress(name: str, rows: int, seconds: float) -> None:
            rate = rows / max(1e-9, seconds)
            reporter.tell("reading", f"{name}: {rows} rows, {rate:.0f} a second", source=name, rows=rows)

        self.left_out = Gathering(self.data, self.sources, self.pool, self.tally).run(progress)
        self.check()
        forms = {form == "preference" for counts in self.tally.sources for form in counts.forms}
        if len(forms) > 1:
            raise BadInput("the data holds both answers and preference pairs; train on one of them at a time")

    def check(self) -> None:
        """Raises BadInput when nothing was read, or more was rejected than may be."""
        for source, counts in zip(self.sources, self.tally.sources, strict=True):
            if not counts.read:
                raise BadInput(f"{source.name}: holds no record")
            if counts.rejected.total() == counts.read:
                raise BadInput(
                    "\n       ".join([f"{source.name}: every record is bad", *self.tally.problems()])
                )
        # Not a record less, because 0.29 times 100 is a hair below 29.
        allowed = int(self.data.max_rejected * self.tally.read + 1e-9)
        if self.tally.rejected > allowed:
            told = (
                f"{self.tally.rejected} of {self.tally.read} records are bad, and data.max_rejected "
                f"{self.data.max_rejected:g} allows {allowed}; mend or remove them"
            )
            raise BadInput("\n       ".join([told, *self.tally.problems()]))

    def count(self, tokeniser: Tokeniser | None, longest: int) -> "dict[int, Length] | None":
        """How long is each good record; too long and too short ones are rejected."""
        if tokeniser is None:
            return None
        kept = [number for number in range(len(self.pool)) if number not in self.left_out]
        lengths = {}
        measured = tokeniser.measure(self.pool.lines(kept), len(kept))
        for number, length in zip(kept, measured, strict=True):
            problem = self._problem(length.longest, length.problem, longest)
            if problem is None:
                lengths[number] = length
            else:
                self._reject(number, problem)
        self.check()
        return lengths

    def _problem(self, tokens: int, told: str | None, longest: int) -> Rejected | None:
        if told is not None:
            return Rejected("template", told)
        if tokens > longest:
            return Rejected(
                "too_long",
                f"has {tokens} tokens, more than {longest}; raise training.max_length, or shorten it",
            )
        if tokens < (self.data.min_tokens or 0):
            return Rejected("too_short", f"has {tokens} tokens, fewer than data.min_tokens")
        return None

    def _reject(self, number: int, problem: Rejected) -> None:
        place = self.pool.place(number)
        if self.data.strict:
            raise BadInput(f"{place}: {problem}")
        self.left_out.add(number)
        [line] = self.pool.lines([number])
        told = Rejected(problem.reason, str(problem), printable(line.decode(), EXCERPT))
        self.tally.reject(self.pool.source[number], place, told)

    def seal(
        self, plan: dict[str, Any], choice: Choice, lengths: "dict[int, Length] | None", store: Store
    ) -> Artifact:
        target = _target(self.sources, plan, store)
        report = make_report(self.sources, self.tally, choice, _lengths(plan, choice, lengths))
        with draft(target, plan) as partial:
            for name, numbers in (("train", choice.train), ("eval", choice.eval)):
                with (partial / f"{name}.jsonl").open("wb") as file:
                    self.pool.write(numbers, file)
            for name, lines in (("rejected", self.rejected), ("removed", self.removed)):
                lines.seek(0)
                with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                    shutil.copyfileobj(lines, file)
            _write_report(partial, target.name, report)
            return seal(partial, "dataset", target.name, lineage=_lineage(self.sources))


@contextmanager
def _work(data: DataSpec, sources: list[Source], store: Store) -> Iterator[_Work]:
    # On the store's disk, but nothing that has a name: the data may still be refused.
    datasets = store.dataset("x").parent
    folder = next(each for each in (datasets, *datasets.parents) if each.is_dir())
    with (
        TemporaryFile("w+", encoding="utf-8", dir=folder) as rejected,
        TemporaryFile("w+", encoding="utf-8", dir=folder) as removed,
    ):
        pool = Pool(folder)
        try:
            tally = Tally([source.name for source in sources], rejected, removed)
            yield _Work(data, sources, pool, tally, rejected, removed, set())
        finally:
            pool.close()


def _find(
    data: DataSpec, sources: list[Source], tokeniser: Tokeniser | None, counting: Counting, store: Store
) -> Artifact | None:
    target = _target(sources, _plan(data, sources, tokeniser, counting), store)
    return open_artifact(target, "dataset", digests=True) if target.exists() else None


def _plan(
    data: DataSpec, sources: list[Source], tokeniser: Tokeniser | None, counting: Counting
) -> dict[str, Any]:
    """What the dataset is made of. Where the files lie does not count."""
    return {
        "version": _VERSION,
        "data": data.model_dump(mode="json", exclude={"train", "eval", "sources"}),
        "sources": [
            {
                "role": source.role,
                "origin": source.origin.model_dump(mode="json"),
                "files": [file.name for file in source.files],
                **source.spec.model_dump(mode="json", exclude={"path", "revision"}),
            }
            for source in sources
        ],
        "tokeniser": tokeniser.identity if tokeniser is not None else None,
        "longest": _longest(data, counting) if tokeniser is not None else None,
    }


def _longest(data: DataSpec, counting: Counting) -> int:
    """Training takes no longer ones than its own limit, whatever the data says."""
    return min(data.max_tokens or counting.longest, counting.longest)


def _target(sources: list[Source], plan: dict[str, Any], store: Store) -> Path:
    first = next(source.name for source in sources if source.role == "train")
    stem = Path(first).name.partition(".")[0].lower()
    slug = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:40] or "data"
    return store.dataset(f"{slug}-{digest_of(plan)[:10]}")


def _lineage(sources: list[Source]) -> dict[str, Any]:
    """One source a role; when there are several, they are numbered."""
    roles = [source.role for source in sources]
    return {
        source.role if roles.count(source.role) == 1 else f"{source.role}-{number}": source.origin
        for number, source in enumerate(sources, 1)
    }


def _lengths(plan: dict[str, Any], choice: Choice, lengths: "dict[int, Length] | None") -> Lengths | None:
    if lengths is None:
        return None
    learned = [lengths[number] for number in choice.train]
    return Lengths(
        plan["tokeniser"]["base"],
        [each.tokens for each in learned],
        sum(each.learned for each in learned),
        max((each.longest for each in learned), default=0),
    )


def _write_report(partial: Path, title: str, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (partial / "report.json").write_text(text, encoding="utf-8")
    with (partial / "rejected.jsonl").open(encoding="utf-8", newline="\n") as file:
        first = [json.loads(line) for line, _ in zip(file, range(SHOWN), strict=False)]
    (partial / "report.html").write_text(report_page(title, report, first), encoding="utf-8")
