"""Reads every source, and keeps each good record once.

What is bad is rejected with its line, what is there twice is removed; the sources for evaluation
come first, so that a training record that repeats one of theirs is recognised as a leak.
"""

import time
from collections.abc import Callable

from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadInput
from hone_trainer.data.cleaning import Candidate
from hone_trainer.data.likeness import Likeness
from hone_trainer.data.pool import Pool
from hone_trainer.data.refining import Refined, Refinery
from hone_trainer.data.rejection import Rejected, Removal
from hone_trainer.data.sources import Source
from hone_trainer.data.tally import Tally

Progress = Callable[[str, int, float], None]
"""Is told a source's name, how many rows were read of it, and in how many seconds."""

_TELL_EVERY = 10.0
_LOOK_EVERY = 4096


class Gathering:
    """One pass over all sources."""

    def __init__(self, data: DataSpec, sources: list[Source], pool: Pool, tally: Tally) -> None:
        self.data, self.sources, self.pool, self.tally = data, sources, pool, tally
        self._seen: dict[bytes, int] = {}
        """The first record of each normalised content."""
        self._held: dict[bytes, int] = {}
        """The first record for evaluation that says this, whatever its system prompt."""
        near = data.clean.near_duplicates if data.clean.duplicates else None
        self._likeness = Likeness(near) if near is not None else None

    def run(self, progress: Progress) -> set[int]:
        """Numbers in the pool of the records that are to be left out.

        Raises BadInput for a file that is refused as a whole, for the first bad record when the data
        is to be taken strictly, and for kinds of records that cannot be in one dataset.
        """
        for number, source in enumerate(self.sources):
            self._read(number, source, progress)
        return self._remove_near_duplicates()

    def _read(self, number: int, source: Source, progress: Progress) -> None:
        counts = self.tally.sources[number]
        wanted = _read_ahead(source)
        began = told = time.monotonic()
        refinery = Refinery(source.how, self.data.clean, source.filter, self._likeness is not None)
        for name, refined in refinery.refine_all(source.parts(), many=source.is_large):
            counts.read += 1
            self._take(number, name, refined)
            if counts.read % _LOOK_EVERY == 0 and (now := time.monotonic()) - told > _TELL_EVERY:
                told = now
                progress(source.name, counts.read, now - began)
            if wanted is not None and counts.accepted >= wanted:
                break

    def _take(self, number: int, name: str, refined: Refined) -> None:
        place, outcome = f"{name}:{refined.line}", refined.outcome
        if isinstance(outcome, Rejected):
            if self.data.strict:
                raise BadInput(f"{place}: {outcome}")
            self.tally.reject(number, place, outcome)
            return
        self.tally.sources[number].note_unused(refined.unused)
        if outcome is None:
            self.tally.remove(number, place, "filtered")
        else:
            self._keep(number, name, outcome)

    def _keep(self, number: int, name: str, candidate: Candidate) -> None:
        first, reason = self._repeats(number, candidate)
        if first is not None and reason is not None:
            place = f"{name}:{candidate.line}"
            self.tally.remove(number, place, reason, of=self.pool.place(first))
            return
        kept = self.pool.add(number, name, candidate)
        self.tally.sources[number].forms[candidate.form] += 1
        self._seen.setdefault(candidate.normalised, kept)
        if self.sources[number].role == "eval":
            self._held.setdefault(candidate.said, kept)
        if self._likeness is not None:
            self._likeness.add(kept, candidate.signature)

    def _repeats(self, number: int, candidate: Candidate) -> tuple[int | None, Removal | None]:
        """The earlier record that this one repeats, and why it is therefore to be left out."""
        if self.sources[number].role == "train" and candidate.said in self._held:
            return self._held[candidate.said], "eval_leak"
        first = self._seen.get(candidate.normalised)
        if first is None or not self.data.clean.duplicates:
            return None, None
        return first, "exact_duplicate" if self.pool.has(first, candidate) else "normalised_duplicate"

    def _is_leak(self, number: int, first: int) -> bool:
        return self.sources[number].role == "train" and self.sources[self.pool.source[first]].role == "eval"

    def _remove_near_duplicates(self) -> set[int]:
        repeats = self._likeness.repeats() if self._likeness is not None else {}
        for number, first in repeats.items():
            source = self.pool.source[number]
            reason: Removal = "eval_leak" if self._is_leak(source, first) else "near_duplicate"
            self.tally.remove(source, self.pool.place(number), reason, of=self.pool.place(first))
        return set(repeats)


def _read_ahead(source: Source) -> int | None:
    """A stream is not read to its end: somewhat more than is wanted, since more may have to go later."""
    if source.spec.hub is None or source.quota is None:
        return None
    return source.quota + source.quota // 10 + 100
