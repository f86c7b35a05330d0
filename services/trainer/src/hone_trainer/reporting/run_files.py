"""A run's folder: how a run begins in it, how a failure is told there, and how its metrics are read again.

Whoever wrote it may have been killed in the middle of a line, so a line that is not whole is passed over.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from hone_contract.artifact import write_atomically
from hone_contract.errors import HoneError, RetryableFailure
from hone_contract.events import Reporter, RunStatus, StepMetrics, write_status
from hone_trainer.launch import rank

EVENTS, METRICS, STATUS, SPEC, REPORT = (
    "events.jsonl",
    "metrics.jsonl",
    "status.json",
    "spec.yaml",
    "report.html",
)
TENSORBOARD = "tensorboard"


def begin_diary(folder: Path, spec_text: str, resumed_step: int | None) -> None:
    """Make a run's folder ready for one that starts (`resumed_step` None) or goes on from a checkpoint.

    A start removes what an earlier attempt told. Going on keeps it, without half-written lines and without
    the metrics of steps that are going to be done again, and tells so. For one process of a run only.
    """
    write_atomically(folder / SPEC, spec_text)
    if resumed_step is None:
        for name in (EVENTS, METRICS, STATUS, REPORT):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
    else:
        _keep(folder / EVENTS, _is_event)
        _keep(folder / METRICS, partial(_is_before, resumed_step))
    _begin_status(folder / STATUS, resumed_step or 0)
    if resumed_step is not None:
        Reporter("trainer", folder / EVENTS).tell(
            "resumed", f"run {folder.name} goes on from step {resumed_step}", step=resumed_step
        )


def read_metrics(path: Path) -> list[StepMetrics]:
    """What a metrics.jsonl holds, in its order; nothing if there is none yet."""
    return [metrics for line in _lines(path) if (metrics := _metrics(line)) is not None]


def read_status(path: Path) -> RunStatus | None:
    """What a status.json says; None when there is none, or nothing that can be read."""
    try:
        return RunStatus.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def tell_succeeded(folder: Path) -> None:
    """For a run whose result is sealed, but whose process was ended before it could say so."""
    status = read_status(folder / STATUS)
    if status is not None and status.state != "succeeded":
        ended = {"state": "succeeded", "message": "", "updated_at": datetime.now(UTC)}
        write_status(folder / STATUS, status.model_copy(update=ended))


@contextmanager
def failure_told(folder: Path) -> Iterator[None]:
    """A run that ends before its result is sealed says so, and why, in its status.json.

    It is `stopped` when the same command may go on from there (a RetryableFailure, a signal), else `failed`.
    """
    with ExitStack() as stack:
        stack.push(partial(_tell_end, folder / STATUS, read_status(folder / STATUS)))
        yield


def _tell_end(
    path: Path,
    before: RunStatus | None,
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> None:
    if error is None:
        return
    now = read_status(path)
    # When one of several processes fails, the others fail of that: the first one knows why.
    told = now is not None and now != before and now.state == "failed"
    is_stop = isinstance(error, RetryableFailure | KeyboardInterrupt) or _is_stop_code(error)
    if told or (is_stop and rank() != 0) or _tells_another(error):
        return
    status = now or RunStatus(run_id=path.parent.name, state="running", updated_at=datetime.now(UTC))
    ended = {"state": "stopped" if is_stop else "failed", "message": _message(error)}
    # On a full disk this fails too; the error that ended the run is the one to tell.
    with suppress(OSError):
        write_status(path, status.model_copy(update={**ended, "updated_at": datetime.now(UTC)}))


def _tells_another(error: BaseException) -> bool:
    """Whether this process only leaves with the code of the one that failed."""
    return isinstance(error, SystemExit) and os.environ.get("WORLD_SIZE", "1") != "1"


def _is_stop_code(error: BaseException) -> bool:
    """Whether a process leaves to be started again, or by a signal, which is told as 128 and its number."""
    code = error.code if isinstance(error, SystemExit) else None
    return isinstance(code, int) and (code == RetryableFailure.exit_code or code > 128)


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the process ended with exit code {error.code}"
    if isinstance(error, KeyboardInterrupt):
        return "the process was interrupted"
    return str(error) if isinstance(error, HoneError) else f"{type(error).__name__}: {error}"


def _begin_status(path: Path, step: int) -> None:
    before = read_status(path)
    total = before.total_steps if before is not None else 0
    now = datetime.now(UTC)
    write_status(
        path,
        RunStatus(run_id=path.parent.name, state="running", step=step, total_steps=total, updated_at=now),
    )


def _keep(path: Path, wanted: Callable[[str], bool]) -> None:
    """Leave in a JSONL file the lines that are wanted."""
    kept = "".join(f"{line}\n" for line in _lines(path) if wanted(line))
    if path.is_file() and path.read_bytes() != kept.encode("utf-8"):
        write_atomically(path, kept)


def _lines(path: Path) -> list[str]:
    """Lines end at a line feed and nowhere else: a text may hold other separators."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line]


def _is_event(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _is_before(step: int, line: str) -> bool:
    metrics = _metrics(line)
    return metrics is not None and metrics.step <= step


def _metrics(line: str) -> StepMetrics | None:
    try:
        return StepMetrics.model_validate_json(line)
    except ValidationError:
        return None
