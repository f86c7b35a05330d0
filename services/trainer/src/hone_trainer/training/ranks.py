"""Several processes that train one model: who is who, and what they do together."""

import os
from collections.abc import Callable
from pathlib import Path

from hone_trainer.training.checkpoints import Checkpoints


def world() -> int:
    """How many processes train this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def save_together(
    checkpoints: Checkpoints, step: int, write: Callable[[Path], None], metrics: dict[str, float]
) -> None:
    """Seal a checkpoint that every process writes its part of."""
    if world() == 1:
        checkpoints.save(step, write, metrics)
        return
    raise NotImplementedError
