"""Which of the good records are taken, how often, and on which side."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy

from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadInput
from hone_trainer.data.pool import Pool
from hone_trainer.data.sources import Source
from hone_trainer.data.tally import Tally


@dataclass(frozen=True)
class Choice:
    """Numbers of records in the pool, in order; a record to learn from may be there more than once."""

    train: list[int]
    eval: list[int]


def choose(data: DataSpec, sources: list[Source], pool: Pool, left_out: set[int], tally: Tally) -> Choice:
    """Draw from each source what is wanted of it, and set records for evaluation aside.

    Raises BadInput when a source has too few, or nothing is left to learn from.
    """
    good: dict[int, list[int]] = defaultdict(list)
    for number in range(len(pool)):
        if number not in left_out:
            good[pool.source[number]].append(number)
    drawn = {
        index: _draw(index, source, good[index], data.seed, tally, pool)
        for index, source in enumerate(sources)
        if source.role == "train"
    }
    missing = {index: max(0, (sources[index].quota or 0) - len(numbers)) for index, numbers in drawn.items()}
    if data.eval is None:
        evaluation = _set_aside(data, drawn, missing, pool)
    else:
        evaluation = [
            number for index, source in enumerate(sources) if source.role == "eval" for number in good[index]
        ]
    aside = set(evaluation)
    times: Counter[int] = Counter()
    for index, numbers in drawn.items():
        learned = [number for number in numbers if number not in aside]
        times.update(learned)
        if missing[index]:
            tally.sources[index].repeated += missing[index]
            times.update(_repeat(learned, missing[index], random.Random(f"{data.seed}:{index}")))
    if not times:
        raise _nothing_left(tally)
    return Choice([number for number in sorted(times) for _ in range(times[number])], evaluation)


def _nothing_left(tally: Tally) -> BadInput:
    became: Counter[str] = Counter()
    for counts in tally.sources:
        became.update(counts.rejected + counts.removed)
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in became.most_common())
    return BadInput(f"no record is left to learn from; of {tally.read} that were read: {told}")


def _draw(index: int, source: Source, good: list[int], seed: int, tally: Tally, pool: Pool) -> list[int]:
    """The records of a source that are wanted, or all, when they are too few and may be repeated."""
    wanted = source.quota
    if wanted is None or wanted == len(good):
        return good
    if wanted < len(good):
        drawn = set(random.Random(f"{seed}:{index}").sample(good, wanted))
        for number in good:
            if number not in drawn:
                tally.remove(index, pool.place(number), "not_sampled")
        return [number for number in good if number in drawn]
    if not good or not source.spec.upsample:
        raise BadInput(
            f"{source.name}: has {len(good)} good records, {wanted} are wanted; ask for fewer, or say "
            "`upsample: true` to have records repeated"
        )
    return good


def _repeat(numbers: list[int], count: int, drawing: random.Random) -> list[int]:
    """So many more of them, each as often as any other, or once more."""
    return numbers * (count // len(numbers)) + drawing.sample(numbers, count % len(numbers))


def _set_aside(data: DataSpec, drawn: dict[int, list[int]], missing: dict[int, int], pool: Pool) -> list[int]:
    """By a hash of the content, so that a record stays on its side when others are added.

    At least one to be judged by, but never the last one to learn from, nor the last one to repeat.
    """
    if data.eval_fraction == 0 and data.eval_count is None:
        return []
    to_repeat = {_last(data.seed, numbers, pool) for index, numbers in drawn.items() if missing[index]}
    every = sorted(number for numbers in drawn.values() for number in numbers)
    numbers = [number for number in every if number not in to_repeat]
    ranks = pool.ranks(data.seed, numbers)
    count = (
        data.eval_count if data.eval_count is not None else max(1, int((ranks < data.eval_fraction).sum()))
    )
    # Stable, so that of equal records the first come first.
    ranked = numpy.argsort(ranks, kind="stable")[: min(count, max(0, len(every) - 1))]
    return sorted(numbers[at] for at in ranked.tolist())


def _last(seed: int, numbers: list[int], pool: Pool) -> int:
    """The record that would be the last to be set aside."""
    return numbers[int(pool.ranks(seed, numbers).argmax())]
