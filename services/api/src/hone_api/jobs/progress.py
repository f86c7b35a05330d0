"""What a run on disk says of itself, as a job's events, checkpoints and result file say it."""

import csv
import errno
import io
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from hone_contract.artifact import open_artifact
from hone_contract.errors import ArtifactCorrupt, HoneError
from hone_contract.events import Rewards, RunStatus, StepMetrics
from hone_contract.store import Store, run_name

_COLUMNS = ("step", "train_loss", "valid_loss", "learning_rate", "tokens")
_OF_PAIRS = tuple(f"{data}_reward_{what}" for data in ("train", "valid") for what in ("margin", "accuracy"))
"""Further ones, of a run on preference pairs."""
_MOST_LINES = 500
"""Of one look, so that it is a short transaction."""
_MARK_BYTES = 256
_RUN_ID_BYTES = 200


@dataclass(frozen=True)
class Progress:
    """How far the metrics were read; kept with the job, in the transaction that adds the events."""

    read: int = 0
    """Bytes."""
    mark: int = 0
    """CRC-32 of the last bytes before that place, by which it is known that they are still the same."""
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
class News:
    """What one look has found."""

    points: list[Point]
    progress: Progress
    """How far the metrics are read with them."""
    more: bool
    """Whether there is more to read at once."""
    status: RunStatus | None = None
    """Where the run stands. None: nobody knows."""


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

    def news(self, before: Progress) -> News:
        """What was not told yet. A run that went on from a checkpoint writes some steps again."""
        folder = self.folder
        status = _status(folder) if folder else None
        if folder is None or status is None:
            return News([], before, more=False)
        try:
            with _opened(folder / "metrics.jsonl") as stream:
                return _news(stream, before, status)
        except FileNotFoundError:
            return News([], before, more=False)

    def saved(self) -> list[int] | None:
        """Steps of the checkpoints that are there, but for the last of all, which the run makes its model of.

        None: it has not begun, or cannot be looked at now.
        """
        folder = self.folder
        status = _status(folder) if folder else None
        if folder is None or status is None:
            return None
        return [step for step in _steps(folder) if step < status.total_steps]

    def checkpoint(self, step: int) -> Path:
        """Where it is, or was."""
        return (self.folder or self.store.run(self.name)) / "checkpoints" / f"step-{step}"

    def results(self, steps: list[int] | None = None) -> "Results":
        """What it has left, read once; of these checkpoints, or of all."""
        folder = self.folder
        if folder is None:
            return Results([], {})
        return Results(_sealed(folder) if steps is None else steps, _losses(folder))


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
        told = {name for row in self.rows.values() for name in row}
        writer = csv.DictWriter(out, [*_COLUMNS, *(name for name in _OF_PAIRS if name in told)])
        writer.writeheader()
        for step, row in sorted(self.rows.items()):
            writer.writerow({"step": step, **row})
        return out.getvalue().encode()


def read_run_id(file: Path, name: str) -> str:
    """Which run of that name a trainer has left. What else it may have written there is not repeated.

    Raises OSError and ArtifactCorrupt.
    """
    with _opened(file) as stream:
        run_id = stream.read(_RUN_ID_BYTES).decode("utf-8", "replace").strip()
    if run_id == name or run_name(run_id) != name:
        raise ArtifactCorrupt(f"{file.name} does not hold the id of a run of {name}")
    return run_id


def _opened(file: Path) -> BinaryIO:
    """Stages write here, and one of them may be another's: a link or a pipe is as if there were nothing.

    Raises OSError.
    """
    # Without O_NONBLOCK, to open a pipe waits for who writes to it.
    try:
        found = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(errno.ENOENT, "a link, and none is followed", str(file)) from None
        raise
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise FileNotFoundError(errno.ENOENT, "no regular file", str(file))
    return os.fdopen(found, "rb")


def _status(folder: Path) -> RunStatus | None:
    try:
        with _opened(folder / "status.json") as stream:
            return RunStatus.model_validate_json(stream.read())
    except (OSError, ValidationError):
        return None


def _steps(folder: Path) -> list[int]:
    """Of all that have a checkpoint's name, which none has before it is whole."""
    try:
        found = os.listdir(folder / "checkpoints")
    except FileNotFoundError:
        return []
    names = (name.removeprefix("step-") for name in found if name.startswith("step-"))
    return sorted(int(name) for name in names if name.isdecimal())


def _sealed(folder: Path) -> list[int]:
    found = []
    for step in _steps(folder):
        with suppress(HoneError, OSError):
            open_artifact(folder / "checkpoints" / f"step-{step}", "checkpoint")
            found.append(step)
    return found


def _losses(folder: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    with suppress(FileNotFoundError), _opened(folder / "metrics.jsonl") as stream:
        for line in filter(None, map(_metrics, _whole(stream))):
            row = found.setdefault(line.step, {})
            rate = line.learning_rate
            said = {"train_loss": line.loss, "valid_loss": line.eval_loss, "learning_rate": rate}
            row.update({name: value for name, value in said.items() if value is not None})
            row.update(_of_pairs("train", line.rewards) | _of_pairs("valid", line.eval_rewards))
            row["tokens"] = line.tokens
    return found


def _news(stream: BinaryIO, before: Progress, status: RunStatus) -> News:
    # The trainer cuts off what came after the checkpoint that it goes on from, and writes other lines there.
    # Then all is read again; what was told is known by its step.
    read = before.read if _mark(stream, before.read) == before.mark else 0
    step, judged, points, more = before.step, before.judged, [], False
    stream.seek(read)
    total = status.total_steps
    for count, text in enumerate(_whole(stream)):
        if more := count == _MOST_LINES:
            break
        read += len(text)
        line = _metrics(text)
        if line is None:
            continue
        if line.loss is not None and line.step > step:
            step = line.step
            points.append(_training(line, total))
        elif line.eval_loss is not None and line.step > judged:
            judged = line.step
            points.append(_validation(line, total))
    return News(points, Progress(read, _mark(stream, read), step, judged), more, status)


def _mark(stream: BinaryIO, end: int) -> int:
    start = max(0, end - _MARK_BYTES)
    stream.seek(start)
    return zlib.crc32(stream.read(end - start))


def _whole(stream: BinaryIO) -> Iterator[bytes]:
    """Lines; the last one may be written still."""
    return (line for line in stream if line.endswith(b"\n"))


def _metrics(line: bytes) -> StepMetrics | None:
    """None: a writer was killed in the middle of it."""
    try:
        return StepMetrics.model_validate(json.loads(line))
    except ValueError:
        return None


def _training(line: StepMetrics, total: int) -> Point:
    return Point(
        f"Step {line.step}/{total}: training loss={line.loss:.2f}",
        {"step": line.step, "total_steps": total, "train_loss": line.loss} | _of_pairs("train", line.rewards),
    )


def _validation(line: StepMetrics, total: int) -> Point:
    return Point(
        f"Step {line.step}/{total}: validation loss={line.eval_loss:.2f}",
        {"step": line.step, "total_steps": total, "valid_loss": line.eval_loss}
        | _of_pairs("valid", line.eval_rewards),
    )


def _of_pairs(data: str, rewards: Rewards | None) -> dict[str, float]:
    if rewards is None:
        return {}
    return {f"{data}_reward_margin": rewards.margin, f"{data}_reward_accuracy": rewards.accuracy}
