"""How many records each source gives, and on which side each stands."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone_contract.data_spec import DataSpec, SourceSpec
from hone_contract.errors import BadInput
from hone_contract.manifest import Source as Origin
from hone_trainer.data.choosing import Choice, choose
from hone_trainer.data.cleaning import to_candidate
from hone_trainer.data.filters import Filter
from hone_trainer.data.formats import How, read_record
from hone_trainer.data.pool import Pool
from hone_trainer.data.sources import Source, share_out
from hone_trainer.data.tally import Tally

few = partial(settings, max_examples=80, deadline=None)
_HOW = How({}, None, "{instruction}", None)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    yield pool
    pool.close()


class Data:
    """Sources with numbered records, and what was chosen of them."""

    def __init__(self, pool: Pool, **spec: Any) -> None:
        self.pool = pool
        self.spec = DataSpec(**{"train": "x", **spec})
        self.sources: list[Source] = []

    def add(
        self,
        count: int,
        quota: int | None = None,
        *,
        upsample: bool = False,
        role: Literal["train", "eval"] = "train",
    ) -> "Data":
        number = len(self.sources)
        spec = SourceSpec(path="x", upsample=upsample)
        origin = Origin(id="x", digest="0" * 64)
        self.sources.append(
            Source(f"source {number}", role, spec, _HOW, Filter(spec), origin, [], quota, self.spec.seed)
        )
        for line in range(1, count + 1):
            row = {"prompt": f"question {line} of {number}", "completion": "An answer."}
            self.pool.add(number, f"{number}.jsonl", to_candidate(read_record(row, _HOW, set()), line))
        return self

    def choose(self, left_out: set[int] | None = None) -> Choice:
        names = [source.name for source in self.sources]
        self.tally = Tally(names, io.StringIO(), io.StringIO())
        for number in range(len(self.pool)):
            self.tally.sources[self.pool.source[number]].read += 1
        return choose(self.spec, self.sources, self.pool, left_out or set(), self.tally)

    def given(self, choice: Choice) -> list[int]:
        """Records of each source, on both sides and with their repeats."""
        counted = Counter(self.pool.source[number] for number in [*choice.train, *choice.eval])
        return [counted[number] for number in range(len(self.sources))]

    def asked(self, numbers: list[int]) -> list[str]:
        return [json.loads(line)["messages"][0]["content"] for line in self.pool.lines(numbers)]


# -- shares ----------------------------------------------------------------------------------------


@few()
@given(
    st.lists(st.floats(0.001, 1000) | st.integers(1, 9), min_size=1, max_size=8),
    st.lists(st.integers(1, 99), max_size=2),
    st.integers(1, 10**6),
)
def test_the_shares_add_up_to_the_record(weights: list[float], counts: list[int], total: int) -> None:
    sources = [SourceSpec(path="x", weight=weight) for weight in weights]
    sources += [SourceSpec(path="x", count=count) for count in counts]
    shares = share_out(sources, total)
    assert shares[len(weights) :] == counts
    whole = sum(weights)
    given = [share for share in shares[: len(weights)] if share is not None]
    assert sum(given) == total
    for share, weight in zip(given, weights, strict=True):
        assert abs(share - total * weight / whole) < 1 + 1e-6


def test_a_source_without_weight_and_count_gives_all_that_it_has() -> None:
    assert share_out([SourceSpec(path="x"), SourceSpec(path="y", count=3)], None) == [None, 3]


def test_each_source_gives_as_many_as_are_wanted_of_it(pool: Pool) -> None:
    data = Data(pool).add(50, 20).add(10).add(40, 40).add(7, 100, upsample=True)
    choice = data.choose()
    assert data.given(choice) == [20, 10, 40, 100]
    tally = data.tally.sources
    assert [counts.removed["not_sampled"] for counts in tally] == [30, 0, 0, 0]
    assert [counts.repeated for counts in tally] == [0, 0, 0, 93]
    assert sum(counts.accepted + counts.repeated for counts in tally) == 170


@few(max_examples=30)
@given(have=st.integers(2, 12), wanted=st.integers(1, 80), fraction=st.sampled_from([0.0, 0.1, 0.5]))
def test_repeated_records_make_the_share_exact_whatever_is_set_aside(
    tmp_path_factory: pytest.TempPathFactory, have: int, wanted: int, fraction: float
) -> None:
    pool = Pool(tmp_path_factory.getbasetemp())
    data = Data(pool, eval_fraction=fraction).add(have, wanted, upsample=True).add(30)
    choice = data.choose()
    assert data.given(choice) == [wanted, 30]
    times = Counter(number for number in choice.train if pool.source[number] == 0)
    if wanted >= have:
        assert max(times.values()) - min(times.values()) <= 1
    assert not set(choice.train) & set(choice.eval)
    pool.close()


@pytest.mark.parametrize("seed", range(8))
def test_the_last_record_to_repeat_is_not_set_aside(pool: Pool, seed: int) -> None:
    choice = Data(pool, seed=seed, eval_fraction=0.9).add(1, 5, upsample=True).add(9).choose()
    assert choice.train.count(0) == 5


@pytest.mark.parametrize(("have", "upsample"), [(5, False), (0, False), (0, True)])
def test_too_few_records_are_refused_unless_they_may_be_repeated(
    pool: Pool, have: int, upsample: bool
) -> None:
    data = Data(pool).add(20).add(have, 6, upsample=upsample)
    with pytest.raises(BadInput, match=rf"source 1: has {have} good records, 6 are wanted.*upsample: true"):
        data.choose()


def test_what_was_left_out_is_not_chosen(pool: Pool) -> None:
    data = Data(pool).add(10, 5)
    choice = data.choose({0, 1, 2, 3, 4})
    assert sorted([*choice.train, *choice.eval]) == [5, 6, 7, 8, 9]


def test_what_is_drawn_depends_on_the_seed(pool: Pool) -> None:
    def drawn(seed: int) -> list[int]:
        data = Data(pool, seed=seed, eval_fraction=0)
        data.sources = [Data(pool, seed=seed).add(0, 20).sources[0]]
        return data.choose().train

    Data(pool).add(100)
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1) == sorted(set(drawn(1)))


# -- at most so many -------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 10, 59])
def test_no_more_records_are_taken_than_may_be_on_both_sides_together(pool: Pool, most: int) -> None:
    data = Data(pool, max_records=most).add(40, 30).add(30)
    choice = data.choose()
    assert len(choice.train) + len(choice.eval) == most
    assert choice.train and choice.eval and not set(choice.train) & set(choice.eval)
    assert sum(counts.removed["not_sampled"] for counts in data.tally.sources) == 70 - most
    assert sum(counts.accepted for counts in data.tally.sources) == most


@pytest.mark.parametrize("most", [None, 60, 1000])
def test_where_there_are_no_more_nothing_changes(pool: Pool, most: int | None) -> None:
    data = Data(pool).add(40, 30).add(30)
    whole = data.choose()
    data.spec = data.spec.model_copy(update={"max_records": most})
    assert data.choose() == whole


def test_each_record_is_as_likely_as_any_other_to_be_taken(pool: Pool) -> None:
    data = Data(pool).add(300, 200).add(100)
    for seed in range(5):
        data.spec = DataSpec(train="x", seed=seed, max_records=150)
        first, second = data.given(data.choose())
        assert first + second == 150
        # Of a hypergeometric draw with mean 100 and a deviation of 4.6; five of those on each side.
        assert 77 <= first <= 123


def test_which_records_are_taken_depends_on_the_seed(pool: Pool) -> None:
    data = Data(pool).add(100)

    def drawn(seed: int) -> list[int]:
        data.spec = DataSpec(train="x", seed=seed, max_records=10)
        choice = data.choose()
        return sorted([*choice.train, *choice.eval])

    assert drawn(1) == drawn(1) != drawn(2)


def test_repeats_count_and_go_before_records_do(pool: Pool) -> None:
    data = Data(pool, max_records=40, eval_fraction=0).add(3, 60, upsample=True).add(20)
    choice = data.choose()
    [repeated, _] = [counts.repeated for counts in data.tally.sources]
    assert len(choice.train) == 40
    assert set(choice.train) >= {0, 1, 2}
    assert sum(counts.accepted + counts.repeated for counts in data.tally.sources) == 40
    assert repeated == sum(number < 3 for number in choice.train) - 3


def test_a_source_that_has_too_few_is_refused_all_the_same(pool: Pool) -> None:
    with pytest.raises(BadInput, match="source 0: has 5 good records, 6 are wanted"):
        Data(pool, max_records=2).add(5, 6).add(20).choose()


def test_records_of_files_for_evaluation_are_not_among_them(pool: Pool) -> None:
    choice = Data(pool, eval="y", max_records=4).add(7, role="eval").add(20).choose()
    assert (len(choice.eval), len(choice.train)) == (7, 4)


# -- the split -------------------------------------------------------------------------------------


def test_a_record_stays_on_its_side_when_others_are_added(tmp_path: Path) -> None:
    sides = []
    for count in (200, 300, 1000):
        pool = Pool(tmp_path)
        data = Data(pool).add(count)
        choice = data.choose()
        assert 0.05 * count < len(choice.eval) < 0.15 * count
        sides.append((set(data.asked(choice.train)), set(data.asked(choice.eval))))
        pool.close()
    for (train, held), (more_train, more_held) in pairwise(sides):
        assert train <= more_train
        assert held <= more_held


def test_another_seed_makes_another_split(pool: Pool) -> None:
    data = Data(pool, seed=1).add(200)
    first = data.choose().eval
    data.spec = DataSpec(train="x", seed=2)
    assert data.choose().eval != first


@pytest.mark.parametrize(
    ("have", "split", "held"),
    [
        (100, {"eval_count": 7}, 7),
        (100, {"eval_count": 7, "eval_fraction": 0}, 7),
        (100, {"eval_fraction": 0}, 0),
        (5, {"eval_count": 50}, 4),
        (1, {"eval_count": 1}, 0),
        (1, {"eval_fraction": 0.99}, 0),
        (3, {"eval_fraction": 0.0001}, 1),
        (2, {"eval_fraction": 0.999}, 1),
    ],
)
def test_at_least_one_record_is_set_aside_and_never_the_last(
    pool: Pool, have: int, split: dict[str, Any], held: int
) -> None:
    choice = Data(pool, **split).add(have).choose()
    assert (len(choice.train), len(choice.eval)) == (have - held, held)
    assert not set(choice.train) & set(choice.eval)


def test_files_for_evaluation_take_the_place_of_the_split(pool: Pool) -> None:
    data = Data(pool, eval="y").add(4, role="eval").add(20)
    choice = data.choose()
    assert (choice.eval, len(choice.train)) == ([0, 1, 2, 3], 20)


def test_so_many_records_of_files_for_evaluation_are_taken(pool: Pool) -> None:
    data = Data(pool, eval="y", eval_count=3).add(9, role="eval").add(20)
    choice = data.choose()
    assert (len(choice.eval), len(choice.train)) == (3, 20)
    assert set(choice.eval) < set(range(9))
    assert [counts.removed["not_sampled"] for counts in data.tally.sources] == [6, 0]
    data.spec = DataSpec(train="x", eval="y", eval_count=30)
    assert data.choose().eval == [*range(9)]


def test_nothing_to_learn_from_is_refused(pool: Pool) -> None:
    with pytest.raises(BadInput, match="no record is left to learn from"):
        Data(pool).add(3).choose({0, 1, 2})


def test_fewer_records_than_asked_for_are_refused(pool: Pool) -> None:
    with pytest.raises(BadInput, match=r"2 records are left to learn from, and data\.min_records asks for 3"):
        Data(pool, eval_fraction=0, min_records=3).add(2).choose()
    assert len(Data(pool, eval_fraction=0, min_records=3).add(3).choose().train) >= 3
