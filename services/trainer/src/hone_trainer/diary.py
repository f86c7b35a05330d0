"""What a run tells while it trains: metrics and status on disk, progress for whoever watches."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hone_contract.events import Reporter, RunStatus, StepMetrics, append_line, write_status

# Without a terminal there is no bar to redraw, so a line is told this often, in seconds.
_TELL_EVERY = 15.0


@contextmanager
def failure_told(folder: Path) -> Iterator[None]:
    """A run that ends before its adapter is sealed says so in its status.json."""
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        if not succeeded:
            _write_failure(folder / "status.json")


def _write_failure(path: Path) -> None:
    now = datetime.now(UTC)
    status = RunStatus(run_id=path.parent.name, state="running", updated_at=now)
    if path.is_file():
        status = RunStatus.model_validate_json(path.read_text(encoding="utf-8"))
    write_status(path, status.model_copy(update={"state": "failed", "updated_at": now}))


class Diary(TrainerCallback):  # type: ignore[misc]
    """Writes metrics.jsonl and status.json, draws the bar, evaluates after each epoch."""

    def __init__(self, folder: Path, reporter: Reporter, evaluate: Callable[[], float | None]) -> None:
        self.folder = folder
        self.reporter = reporter
        self.evaluate = evaluate
        self.eval_loss: float | None = None
        """Of the last evaluation, which the end of training brings too."""
        self.loss: float | None = None
        """Of the last step."""
        self.bar: Any = None
        self.tokens = 0
        self.began = 0.0
        self.evaluating = 0.0
        self.told = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = self.told = time.monotonic()
        self.bar = tqdm(total=state.max_steps, unit="step", desc="training", disable=not sys.stderr.isatty())
        self.set_status("running", state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        self.loss = logs["loss"]
        self.tokens = int(logs["num_tokens"])
        metrics = StepMetrics(
            step=state.global_step,
            epoch=state.epoch or 0.0,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=float(logs["grad_norm"]),
            tokens=self.tokens,
            tokens_per_second=self.tokens_per_second,
        )
        self._write(metrics)
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, {self.tokens_per_second:.0f} tokens/s")
        self._tell_now_and_then(state, metrics)
        self.set_status("running", state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        start = time.monotonic()
        self.eval_loss = loss = self.evaluate()
        self.evaluating += time.monotonic() - start
        if loss is not None:
            epoch = state.epoch or 0.0
            self._write(StepMetrics(step=state.global_step, epoch=epoch, eval_loss=loss, tokens=self.tokens))
            self.reporter.tell(
                "evaluated",
                f"epoch {epoch:.0f}: evaluation loss {loss:.3f}",
                step=state.global_step,
                eval_loss=loss,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.close()

    @property
    def tokens_per_second(self) -> float:
        """Over the whole run so far, evaluation left out."""
        return self.tokens / max(1e-9, time.monotonic() - self.began - self.evaluating)

    def set_status(self, run_state: Literal["running", "succeeded", "failed"], state: TrainerState) -> None:
        status = RunStatus(
            run_id=self.folder.name,
            state=run_state,
            step=state.global_step,
            total_steps=state.max_steps,
            updated_at=datetime.now(UTC),
        )
        write_status(self.folder / "status.json", status)

    def _write(self, metrics: StepMetrics) -> None:
        append_line(self.folder / "metrics.jsonl", metrics.model_dump_json(exclude_none=True))

    def _tell_now_and_then(self, state: TrainerState, metrics: StepMetrics) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() or now - self.told < _TELL_EVERY:
            return
        self.told = now
        left = (now - self.began) / state.global_step * (state.max_steps - state.global_step)
        self.reporter.tell(
            "training",
            f"step {state.global_step}/{state.max_steps}, loss {metrics.loss:.3f}, "
            f"{self.tokens_per_second:.0f} tokens/s, {left:.0f} s left",
            step=state.global_step,
            total_steps=state.max_steps,
            loss=metrics.loss,
            tokens_per_second=self.tokens_per_second,
            seconds_left=left,
        )
