"""Which records a step learns from, and how they are laid out in forward passes."""

import random
from collections.abc import Iterator

from hone_contract.run_spec import TrainingSpec

_CPU_TOKENS = 768


def tokens_per_pass(training: TrainingSpec, on_gpu: bool) -> int:
    """Tokens that a forward pass holds at most, but for a single longer record.

    On a CPU more tokens than some hundred make it no faster, and every one costs memory.
    """
    if training.tokens_per_pass is not None:
        return training.tokens_per_pass
    return training.max_length if on_gpu else _CPU_TOKENS


def recomputes(training: TrainingSpec, on_gpu: bool) -> bool:
    """Whether activations are computed again in the backward pass: as asked, or on a GPU."""
    return on_gpu if training.gradient_checkpointing == "auto" else training.gradient_checkpointing


class Steps:
    """A batch sampler: the records of each optimiser step that fall to one of several processes.

    The order comes from the seed and the epoch alone, so that a run that goes on, or one on another number
    of processes, learns from the same records in the same step.
    """

    def __init__(self, records: int, size: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        self.records = records
        self.size = size
        """Records of a step, over all processes."""
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.records // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        """Empty for a process that a last, smaller step leaves without a record."""
        order = list(range(self.records))
        random.Random(f"{self.seed}:{self.epoch}").shuffle(order)
        for start in range(0, self.records, self.size):
            yield order[start : start + self.size][self.rank :: self.world]


def packed_passes(lengths: list[int], most: int) -> list[list[int]]:
    """Places of records, pass by pass, none longer than `most` tokens if it holds more than one record.

    First-fit decreasing: a pass is opened when a record fits into none that there is.
    """
    passes: list[list[int]] = []
    room: list[int] = []
    for place in _longest_first(lengths):
        fitting = next((index for index, left in enumerate(room) if lengths[place] <= left), None)
        if fitting is None:
            passes.append([place])
            room.append(most - lengths[place])
        else:
            passes[fitting].append(place)
            room[fitting] -= lengths[place]
    return passes


def padded_passes(lengths: list[int], most: int, size: int) -> list[list[int]]:
    """Likewise for records padded to the longest beside them: neighbours in length, `size` at most."""
    passes: list[list[int]] = []
    for place in _longest_first(lengths):
        if passes and len(passes[-1]) < size and lengths[passes[-1][0]] * (len(passes[-1]) + 1) <= most:
            passes[-1].append(place)
        else:
            passes.append([place])
    return passes


def _longest_first(lengths: list[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
