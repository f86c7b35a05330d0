"""What a run on disk says of itself, as a job's events, checkpoints and result file say it."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hone_contract.artifact import open_artifact
from hone_contract.errors import HoneError
from hone_contract.events import RunStatus, StepMetrics
from hone_contract.store import Store

_COLUMNS = ("step", "train_loss", "valid_loss", "learning_rate", "tokens")
_MOST_LINES = 500
"""Of one look, so that it is a short transaction."""


@dataclass(frozen=True)
class Progress:
    """How far the metrics were read; kept with the job, in the transaction that adds the events."""

    read: int = 0
    """Bytes."""
    step: int = 0
    """The last one whose training loss became an event."""
    judged: int = -1
    """The last one whose validation loss did."""


@dataclass(frozen=True)
class Point:
    """One line of the metrics that is new."""

    message: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run's folder in the store."""

    store: Store
    name: str

    @property
    def folder(self) -> Path | None:
        """None: the trainer has not begun it yet. A job's runs have its id for a name, so there is one."""
        found = sorted(
            self.store.root.glob(f"runs/{self.name}-*/status.json"), key=lambda file: file.stat().st_mtime
        )
        return found[-1].parent if found else None

    def news(self, before: Progress) -> tuple[list[Point], Progress]:
        """What was not told yet. A run that went on from a checkpoint writes some steps again."""
        folder = self.folder
        status = _status(folder) if folder else None
        if folder is None or status is None:
            return [], before
        points, now = [], before
        for end, line in _lines(folder / "metrics.jsonl", before.read):
            now = Progress(end, now.step, now.judged)
            if line.loss is not None and line.step > now.step:
                now = Progress(end, line.step, now.judged)
                points.append(_training(line, status.total_steps))
            elif line.eval_loss is not None and line.step > now.judged:
                now = Progress(end, now.step, line.step)
                points.append(_validation(line, status.total_steps))
        return points, now

    def results(self) -> "Results":
        """All that it has left, read once."""
        folder = self.folder
        return Results(_sealed(folder), _losses(folder)) if folder else Results([], {})


@dataclass(frozen=True)
class Results:
    """What a run has left."""

    steps: list[int]
    """Of the sealed checkpoints, in order."""
    rows: dict[int, dict[str, float]]
    """What is known of each step."""

    @property
    def checkpoints(self) -> list[tuple[int, dict[str, float]]]:
        """Steps of the sealed ones, with their losses, in order."""
        return [(step, {"step": step, **self.rows.get(step, {})}) for step in self.steps]

    @property
    def tokens(self) -> int:
        """Trained on, prompts included."""
        return max((int(row["tokens"]) for row in self.rows.values()), default=0)

    def table(self) -> bytes:
        """All steps as CSV: what OpenAI's result file has, and what Hone knows beside it."""
        out = io.StringIO()
        writer = csv.DictWriter(out, _COLUMNS)
        writer.writeheader()
        for step, row in sorted(self.rows.items()):
            writer.writerow({"step": step, **row})
        return out.getvalue().encode()


def _status(folder: Path) -> RunStatus | None:
    try:
        return RunStatus.model_validate_json((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def _sealed(folder: Path) -> list[int]:
    found = []
    for path in folder.glob("checkpoints/step-*"):
        with suppress(HoneError, KeyError, OSError):
            found.append(int(open_artifact(path, "checkpoint").manifest.metrics["step"]))
    return sorted(found)


def _losses(folder: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for _, line in _lines(folder / "metrics.jsonl", 0, most=None):
        row = found.setdefault(line.step, {})
        said = {"train_loss": line.loss, "valid_loss": line.eval_loss, "learning_rate": line.learning_rate}
        row.update({name: value for name, value in said.items() if value is not None})
        row["tokens"] = line.tokens
    return found


def _lines(file: Path, start: int, most: int | None = _MOST_LINES) -> Iterator[tuple[int, StepMetrics]]:
    """Whole lines from a place on, each with the place behind it."""
    try:
        with file.open("rb") as stream:
            # The trainer cuts off what came after the checkpoint that it goes on from.
            start = start if start <= stream.seek(0, io.SEEK_END) else 0
            stream.seek(start)
            for count, line in enumerate(stream):
                if not line.endswith(b"\n") or count == most:
                    return
                start += len(line)
                yield start, StepMetrics.model_validate(json.loads(line))
    except (FileNotFoundError, ValueError):
        return


def _training(line: StepMetrics, total: int) -> Point:
    return Point(
        f"Step {line.step}/{total}: training loss={line.loss:.2f}",
        {"step": line.step, "total_steps": total, "train_loss": line.loss},
    )


def _validation(line: StepMetrics, total: int) -> Point:
    return Point(
        f"Step {line.step}/{total}: validation loss={line.eval_loss:.2f}",
        {"step": line.step, "total_steps": total, "valid_loss": line.eval_loss},
    )
