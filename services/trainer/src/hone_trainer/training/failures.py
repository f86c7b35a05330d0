"""What goes wrong in a training step, in words that say what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.plan import Plan
from hone_trainer.record import Record

_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory", re.I
)
_SHOWN = 8


class Diverged(Exception):
    """The loss of a step is no number. Its gradients were not applied."""

    def __init__(self, step: int, loss: float, records: list[int]) -> None:
        super().__init__(step, loss, records)
        self.step = step
        self.loss = loss
        self.records = records
        """Numbers of the records that this process took for the step."""


@contextmanager
def explained(plan: Plan) -> Iterator[None]:
    """Raises BadInput for a loss that is no number, BadConfiguration when the memory was not enough."""
    try:
        yield
    except Diverged as error:
        raise BadInput(
            f"training diverged: in step {error.step} the loss is {error.loss} on "
            f"{_sources(plan, error.records)}; lower training.learning_rate "
            f"{plan.spec.training.learning_rate:g}, or look at these records; earlier checkpoints stay"
        ) from error
    except MemoryError as error:
        raise _out_of_memory(plan) from error
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise _out_of_memory(plan) from error


def _out_of_memory(plan: Plan) -> BadConfiguration:
    return BadConfiguration(
        f"the memory was not enough to train: lower training.tokens_per_pass of {plan.run_id}"
    )


def _sources(plan: Plan, numbers: list[int]) -> str:
    """Where the records came from, as `file:line`."""
    wanted = set(sorted(numbers)[:_SHOWN])
    found = []
    with Path(plan.dataset.path, "train.jsonl").open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(islice(file, max(wanted, default=-1) + 1)):
            if number in wanted:
                found.append(Record.from_json(line).source)
    more = f" and {len(numbers) - len(found)} more" if len(numbers) > len(found) else ""
    return ", ".join(found) + more
