"""Which records a step has, and how they share passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone_contract.run_spec import TrainingSpec
from hone_trainer.training.batches import Steps, packed_passes, padded_passes, tokens_per_pass

LENGTHS = st.lists(st.integers(1, 500), max_size=40)


@given(LENGTHS, st.integers(1, 600))
def test_every_record_is_in_one_pass_that_is_not_too_long(lengths: list[int], most: int) -> None:
    passes = packed_passes(lengths, most)
    assert sorted(place for each in passes for place in each) == list(range(len(lengths)))
    for each in passes:
        assert len(each) == 1 or sum(lengths[place] for place in each) <= most


@given(LENGTHS, st.integers(1, 600), st.integers(1, 6))
def test_padding_counts_for_padded_passes(lengths: list[int], most: int, size: int) -> None:
    passes = padded_passes(lengths, most, size)
    assert sorted(place for each in passes for place in each) == list(range(len(lengths)))
    for each in passes:
        assert len(each) <= size
        assert len(each) == 1 or max(lengths[place] for place in each) * len(each) <= most


def test_a_pass_is_filled_before_another_is_opened() -> None:
    assert packed_passes([60, 50, 40, 30, 20], 100) == [[0, 2], [1, 3, 4]]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_processes_share_out_each_step(records: int, size: int, world: int, epoch: int) -> None:
    alone = _steps(records, size, epoch, 0, 1)
    shared = [_steps(records, size, epoch, rank, world) for rank in range(world)]
    assert len(alone) == -(-records // size)
    assert sorted(place for step in alone for place in step) == list(range(records))
    for number, step in enumerate(alone):
        assert sorted(place for each in shared for place in each[number]) == sorted(step)


def test_each_epoch_has_an_order_of_its_own_and_each_seed() -> None:
    orders = [_steps(50, 50, epoch, 0, 1)[0] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert orders[0] == _steps(50, 50, 0, 0, 1)[0]
    assert next(iter(Steps(50, 50, 8))) != orders[0]


@pytest.mark.parametrize(
    ("training", "on_gpu", "tokens"),
    [
        (TrainingSpec(), False, 768),
        (TrainingSpec(max_length=4096), True, 4096),
        (TrainingSpec(tokens_per_pass=99), False, 99),
        (TrainingSpec(tokens_per_pass=99), True, 99),
    ],
)
def test_how_long_a_pass_may_be(training: TrainingSpec, on_gpu: bool, tokens: int) -> None:
    assert tokens_per_pass(training, on_gpu) == tokens


def _steps(records: int, size: int, epoch: int, rank: int, world: int) -> list[list[int]]:
    steps = Steps(records, size, 7, rank=rank, world=world)
    steps.set_epoch(epoch)
    return list(steps)
