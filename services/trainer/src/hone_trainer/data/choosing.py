"""Which of the good records are taken, how often, and on which side."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

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
    wanted = _wanted(data, sources, good, tally)
    drawn = {index: _draw(sources[index], good[index], count, data.seed) for index, count in wanted.items()}
    for index, numbers in drawn.items():
        _tell_left(index, good[index], numbers, tally, pool)
    missing = {index: count - len(drawn[index]) for index, count in wanted.items()}
    if data.eval is None:
        evaluation = _set_aside(data, drawn, missing, pool)
    else:
        evaluation = _held(data, sources, good, tally, pool)
    aside = set(evaluation)
    times: Counter[int] = Counter()
    for index, numbers in drawn.items():
        learned = [number for number in numbers if number not in aside]
        times.update(learned)
        if missing[index]:
            tally.sources[index].repeated += missing[index]
            times.update(_repeat(learned, missing[index], _drawing(data.seed, sources[index])))
    if not times:
        raise _nothing_left(tally)
    if (left := times.total()) < data.min_records:
        raise BadInput(
            f"{left} records are left to learn from, and data.min_records asks for {data.min_records}"
        )
    return Choice([number for number in sorted(times) for _ in range(times[number])], evaluation)


def _held(
    data: DataSpec, sources: list[Source], good: dict[int, list[int]], tally: Tally, pool: Pool
) -> list[int]:
    """The records of the `eval` files, or `data.eval_count` of them."""
    index = next(index for index, source in enumerate(sources) if source.role == "eval")
    every = good[index]
    if not every:
        raise BadInput(f"no record of {data.eval} is left to judge by")
    count = len(every) if data.eval_count is None else data.eval_count
    held = _draw(sources[index], every, count, data.seed)
    _tell_left(index, every, held, tally, pool)
    return held


def _nothing_left(tally: Tally) -> BadInput:
    became: Counter[str] = Counter()
    for counts in tally.sources:
        became.update(counts.rejected + counts.removed)
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in became.most_common())
    return BadInput(f"no record is left to learn from; of {tally.read} that were read: {told}")


def _wanted(
    data: DataSpec, sources: list[Source], good: dict[int, list[int]], tally: Tally
) -> dict[int, int]:
    """How many records to take of each source, repeats among them; raises BadInput when one has too few.

    When they are more than `data.max_records`, as many as that are drawn, each as likely as any other.
    """
    wanted = {}
    for index, source in enumerate(sources):
        if source.role == "train":
            wanted[index] = len(good[index]) if source.quota is None else source.quota
            _check_enough(source, len(good[index]), tally.sources[index].read)
    most = data.max_records
    if most is None or sum(wanted.values()) <= most:
        return wanted
    taken = random.Random(f"{data.seed}:max_records").sample(list(wanted), most, counts=list(wanted.values()))
    return {index: taken.count(index) for index in wanted}


def _check_enough(source: Source, have: int, read: int) -> None:
    wanted = source.quota or 0
    if wanted > have and (not have or not source.spec.upsample):
        raise BadInput(
            f"{source.name}: has {have} good records, {wanted} are wanted ({read} rows were read); "
            "ask for fewer, or say `upsample: true` to have records repeated"
        )


def _draw(source: Source, good: list[int], wanted: int, seed: int) -> list[int]:
    """The records of a source that are wanted, in order, or all when they are too few and are repeated."""
    if wanted >= len(good):
        return good
    return sorted(_drawing(seed, source).sample(good, wanted))


def _tell_left(index: int, good: list[int], drawn: list[int], tally: Tally, pool: Pool) -> None:
    kept = set(drawn)
    for number in good:
        if number not in kept:
            tally.remove(index, pool.place(number), "not_sampled")


def _drawing(seed: int, source: Source) -> random.Random:
    """Of its own for each source, so that another one beside it changes nothing."""
    return random.Random(f"{seed}:{source.origin.id}:{source.spec.split}:{source.spec.name}")


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
    ranked = numpy.argsort(ranks, kind="stable")
    taken = _whole_groups(ranks[ranked], min(count, max(0, len(every) - 1)), len(every))
    return sorted(numbers[at] for at in ranked[:taken].tolist())


def _whole_groups(ranks: NDArray[numpy.float64], count: int, every: int) -> int:
    """About `count`, so that records which say the same, and so rank the same, stay on one side."""
    if count == 0 or len(ranks) == 0:
        return 0
    last = ranks[min(count, len(ranks)) - 1]
    taken = int(numpy.searchsorted(ranks, last, side="right"))
    return taken if taken < every else int(numpy.searchsorted(ranks, last, side="left"))


def _last(seed: int, numbers: list[int], pool: Pool) -> int:
    """The record that would be the last to be set aside."""
    return numbers[int(pool.ranks(seed, numbers).argmax())]
