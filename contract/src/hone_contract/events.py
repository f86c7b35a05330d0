"""What a process tells while it works: events, step metrics and the state of a run.

An event is one line on standard error (readable on a terminal, JSON anywhere else) and, for a
run, the same JSON line in its `events.jsonl`.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from hone_contract.artifact import write_atomically
from hone_contract.shape import Shape

Level = Literal["info", "warning", "error"]


class Event(Shape):
    """Something that happened, in one line."""

    time: datetime
    level: Level
    service: str
    event: str
    """A fixed name in snake_case, for machines to match."""
    message: str
    """A sentence for people."""
    data: dict[str, JsonValue] = {}


class Rewards(Shape):
    """What preference tuning makes of pairs, means over them (https://arxiv.org/abs/2305.18290).

    The reward of an answer is beta * log(p(answer) / p of the base), in nats.
    """

    chosen: float
    """Of the better answers."""
    rejected: float
    """Of the worse ones."""
    margin: float
    """Of the better answers, less those of the worse ones."""
    accuracy: float
    """Share of the pairs whose better answer has the higher reward."""


class StepMetrics(Shape):
    """One line of a run's `metrics.jsonl`."""

    step: int
    """Optimiser steps done."""
    epoch: float
    loss: float | None = None
    """Mean cross-entropy (nats a token) over the steps since the last line; None on evaluation lines. With
    preference pairs the mean of -log sigmoid(margin), nats a pair."""
    eval_loss: float | None = None
    """The same on the evaluation records; None on training lines."""
    rewards: Rewards | None = None
    """Of the step's preference pairs; None on evaluation lines, and where the records are none."""
    eval_rewards: Rewards | None = None
    """Of the evaluation pairs; None on training lines, and where the records are none."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    """Tokens trained on so far, prompts included, padding not."""
    tokens_per_second: float | None = None
    memory_mb: float | None = None
    """Most memory that the process has held so far: resident on a CPU, allocated on a GPU."""


class RunStatus(Shape):
    """A run's `status.json`: where it stands now."""

    run_id: str
    state: Literal["running", "stopped", "succeeded", "failed"]
    """`stopped`: asked to stop, at a checkpoint; the same command goes on from there."""
    step: int = 0
    total_steps: int = 0
    updated_at: datetime
    message: str = ""


class Reporter:
    """Tells events for one service, to standard error and to `file` when there is one."""

    def __init__(self, service: str, file: Path | None = None) -> None:
        self.service = service
        self.file = file

    def tell(self, event: str, message: str, *, level: Level = "info", **data: JsonValue) -> None:
        told = Event(
            time=datetime.now(UTC), level=level, service=self.service, event=event, message=message, data=data
        )
        line = told.model_dump_json()
        if self.file is not None:
            append_line(self.file, line)
        print(_for_terminal(told) if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


def append_line(path: Path, line: str) -> None:
    """Add one line to a JSONL file, in one write, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_status(path: Path, status: RunStatus) -> None:
    write_atomically(path, status.model_dump_json(indent=2) + "\n")


def _for_terminal(event: Event) -> str:
    clock = event.time.astimezone().strftime("%H:%M:%S")
    mark = "" if event.level == "info" else f"{event.level}: "
    return f"{clock} {event.service:8} {mark}{event.message}"
