"""What goes wrong in a training step, in words that say what to do."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.plan import Plan
from hone_trainer.record import Record
from hone_trainer.sizing.estimate import what_to_lower
from hone_trainer.training.checkpoints import Checkpoints
from hone_trainer.training.disk_full import DISK_ERRORS, disk_full, is_disk_full

_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory", re.I
)
_SHOWN = 8


class Diverged(Exception):
    """A loss, or the norm of its gradients, is no number. The gradients were not applied."""

    def __init__(self, step: int, told: str, records: list[int], side: str = "train") -> None:
        super().__init__(step, told, records, side)
        self.step = step
        """Optimiser steps done."""
        self.told = told
        """When, and what is no number."""
        self.records = records
        """Numbers of the records that this process took."""
        self.side = side
        """The dataset's file that has them."""


@contextmanager
def explained(plan: Plan, checkpoints: Checkpoints) -> Iterator[None]:
    """Raises BadInput for a loss that is no number, BadConfiguration when the memory was not enough,
    RetryableFailure when the disk is full."""
    try:
        yield
    except Diverged as error:
        raise _diverged(plan, error) from error
    except MemoryError as error:
        raise _out_of_memory(plan) from error
    except DISK_ERRORS as error:
        if _is_out_of_memory(error):
            raise _out_of_memory(plan) from error
        if is_disk_full(error):
            newest = next(iter(checkpoints.steps()), None)
            what = f"a file of run {plan.run_id} could not be written"
            raise disk_full(what, checkpoints.store.root, newest, error) from error
        raise


def _diverged(plan: Plan, error: Diverged) -> BadInput:
    if error.step == 0:
        told = "nothing was learned yet, so look at these records, and at the weights of the base"
    else:
        rate = plan.spec.training.learning_rate
        told = f"lower training.learning_rate {rate:g}, or look at these records; earlier checkpoints stay"
    return BadInput(f"training diverged: {error.told} on {_sources(plan, error)}; {told}")


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _out_of_memory(plan: Plan) -> BadConfiguration:
    return BadConfiguration(f"the memory was not enough to train run {plan.run_id}: {what_to_lower(plan)}")


def _sources(plan: Plan, error: Diverged) -> str:
    """Where the records came from, as `file:line`."""
    numbers = error.records
    wanted = set(sorted(numbers)[:_SHOWN])
    found = []
    with Path(plan.dataset.path, f"{error.side}.jsonl").open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(islice(file, max(wanted, default=-1) + 1)):
            if number in wanted:
                found.append(Record.from_json(line).source)
    more = f" and {len(numbers) - len(found)} more" if len(numbers) > len(found) else ""
    return ", ".join(found) + more if found else "the records of another process"
