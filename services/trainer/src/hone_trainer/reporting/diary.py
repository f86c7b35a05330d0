"""What a run tells while it trains: metrics and status on disk, progress for whoever watches."""

import resource
import sys
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hone_contract.events import Reporter, Rewards, RunStatus, StepMetrics, append_line, write_status
from hone_trainer.reporting.exporter import Exporter
from hone_trainer.reporting.run_files import METRICS, STATUS, begin_diary, failure_told, read_metrics

__all__ = ["Diary", "begin_diary", "failure_told"]

# Without a terminal there is no bar to redraw, so a line is told this often, in seconds.
_TELL_EVERY = 15.0
# The status is flushed to the disk, which takes longer than a step of a small model.
_STATUS_EVERY = 1.0


class Diary(TrainerCallback):  # type: ignore[misc]
    """Writes metrics.jsonl and status.json, tells of evaluations and checkpoints, draws the bar.

    Every process of a run has one; only that of rank 0 writes and shows anything. Losses are nats a token,
    or nats a preference pair.
    """

    def __init__(self, folder: Path, reporter: Reporter, exporter: Exporter | None = None) -> None:
        self.folder = folder
        self.reporter = reporter
        self.exporter = exporter
        self.loss: float | None = None
        """Of the last step."""
        self.eval_loss: float | None = None
        """Of the last evaluation."""
        self.eval_loss_before: float | None = None
        """Of the one before training."""
        self.eval_rewards: Rewards | None = None
        """Of the last evaluation, of preference pairs."""
        self.tokens = 0
        """Trained on so far, prompts included, padding not; with those of the process that was resumed."""
        self.seconds = {"training": 0.0, "evaluation": 0.0, "saving": 0.0}
        """Of this process's training, so far."""
        self.bar: Any = None
        self._first_step = 0
        self._first_tokens = 0
        self._began = self._lapped = self._told = time.monotonic()
        self._stated = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first_step = state.global_step
        if state.global_step > 0:
            self._go_on()
        self._began = self._lapped = self._told = time.monotonic()
        if not state.is_world_process_zero:
            return
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self.set_status("running", state)
        if self.exporter is not None:
            self.exporter.began()
            self.exporter.show(step=state.global_step, steps=state.max_steps, epoch=state.epoch or 0.0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._lap("training")

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
        self._lap("training")
        self.loss = logs["loss"]
        self.tokens = int(logs.get("num_tokens", self.tokens))
        if state.is_world_process_zero:
            self._tell_step(state, self._metrics_of(state, logs))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._lap("evaluation")
        loss = (metrics or {}).get("eval_loss")
        if loss is None:
            return
        self.eval_loss, self.eval_rewards = loss, _rewards(metrics or {}, "eval_")
        if state.global_step == 0:
            self.eval_loss_before = loss
        if state.is_world_process_zero:
            self._tell_evaluation(state, loss)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._lap("saving")
        if not state.is_world_process_zero:
            return
        step = state.global_step
        with _beside_the_bar():
            self.reporter.tell(
                "checkpoint_saved", f"checkpoint step-{step} of {state.max_steps} is saved", step=step
            )
        # A run that goes on begins here, so this is never the step that the status leaves out.
        self.set_status("running", state)
        if self.exporter is not None:
            self.exporter.saved()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the bar's line, so that what is told next has one of its own. Training that ends does this."""
        if self.bar is not None:
            self.bar.close()

    @property
    def tokens_per_second(self) -> float:
        """Over this process's training so far, evaluation and saving left out."""
        return (self.tokens - self._first_tokens) / max(1e-9, self.seconds["training"])

    def set_status(
        self,
        run_state: Literal["running", "stopped", "succeeded", "failed"],
        state: TrainerState,
        message: str = "",
    ) -> None:
        """Say in status.json where the run stands."""
        if not state.is_world_process_zero:
            return
        status = RunStatus(
            run_id=self.folder.name,
            state=run_state,
            step=state.global_step,
            total_steps=state.max_steps,
            updated_at=datetime.now(UTC),
            message=message,
        )
        write_status(self.folder / STATUS, status)
        self._stated = time.monotonic()

    def _go_on(self) -> None:
        """Take up what the process told that wrote the checkpoint."""
        told = read_metrics(self.folder / METRICS)
        self.tokens = self._first_tokens = max((line.tokens for line in told), default=0)
        for line in told:
            self.loss = self.loss if line.loss is None else line.loss
            if line.eval_loss is not None:
                self.eval_loss, self.eval_rewards = line.eval_loss, line.eval_rewards
            if line.step == 0 and line.eval_loss is not None:
                self.eval_loss_before = line.eval_loss
        if self.exporter is not None:
            self.exporter.show(loss=self.loss, eval_loss=self.eval_loss, tokens=self.tokens)
            saved = self.folder / "checkpoints" / f"step-{self._first_step}"
            if saved.is_dir():
                self.exporter.saved(saved.stat().st_mtime)

    def _lap(self, stage: str) -> None:
        # The order of the callbacks tells what the time since the last one went to.
        now = time.monotonic()
        self.seconds[stage] += now - self._lapped
        self._lapped = now

    def _metrics_of(self, state: TrainerState, logs: dict[str, float]) -> StepMetrics:
        norm = logs.get("grad_norm")
        return StepMetrics(
            step=state.global_step,
            epoch=state.epoch or 0.0,
            loss=logs["loss"],
            rewards=_rewards(logs),
            learning_rate=logs.get("learning_rate"),
            grad_norm=None if norm is None else float(norm),
            tokens=self.tokens,
            tokens_per_second=self.tokens_per_second,
            memory_mb=peak_memory_mb(),
        )

    def _tell_step(self, state: TrainerState, metrics: StepMetrics) -> None:
        self._write(metrics)
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix_str(_summary(metrics))
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._told >= _TELL_EVERY:
            self._told = now
            self._tell_progress(state, metrics)
        if now - self._stated >= _STATUS_EVERY or state.global_step == state.max_steps:
            self.set_status("running", state)

    def _tell_progress(self, state: TrainerState, metrics: StepMetrics) -> None:
        done = state.global_step - self._first_step
        left = (time.monotonic() - self._began) / max(1, done) * (state.max_steps - state.global_step)
        self.reporter.tell(
            "training",
            f"step {state.global_step}/{state.max_steps}, {_summary(metrics)}, {left:.0f} s left",
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=metrics.epoch,
            loss=metrics.loss,
            learning_rate=metrics.learning_rate,
            tokens_per_second=self.tokens_per_second,
            seconds_left=left,
        )

    def _tell_evaluation(self, state: TrainerState, loss: float) -> None:
        epoch = state.epoch or 0.0
        metrics = StepMetrics(
            step=state.global_step,
            epoch=epoch,
            eval_loss=loss,
            eval_rewards=self.eval_rewards,
            tokens=self.tokens,
        )
        self._write(metrics)
        when = f"epoch {epoch:.4g}" if state.global_step else "before training"
        told = f"{when}: evaluation loss {loss:.3f}{_of_pairs(self.eval_rewards)}"
        data = metrics.model_dump(include={"step", "eval_loss", "eval_rewards"}, exclude_none=True)
        with _beside_the_bar():
            self.reporter.tell("evaluated", told, **data)

    def _write(self, metrics: StepMetrics) -> None:
        append_line(self.folder / METRICS, metrics.model_dump_json(exclude_none=True))
        if self.exporter is not None:
            self.exporter.show_metrics(metrics)


def _beside_the_bar() -> AbstractContextManager[None]:
    """While a line is written, the bar is not where it goes."""
    return tqdm.external_write_mode(sys.stderr)  # type: ignore[no-any-return]


def peak_memory_mb() -> float:
    """Most memory that this process has held, in MB (10⁶ bytes): resident on a CPU, allocated on a GPU."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e6
    # Linux counts it in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _rewards(logs: dict[str, float], prefix: str = "") -> Rewards | None:
    """From the names that TRL gives them; None where the records are no pairs."""
    names = {"chosen": "chosen", "rejected": "rejected", "margin": "margins", "accuracy": "accuracies"}
    keys = {name: f"{prefix}rewards/{plural}" for name, plural in names.items()}
    if keys["margin"] not in logs:
        return None
    return Rewards(**{name: logs[key] for name, key in keys.items()})


def _of_pairs(rewards: Rewards | None) -> str:
    if rewards is None:
        return ""
    return f", margin {rewards.margin:.3f}, {rewards.accuracy:.0%} of the pairs in order"


def _summary(metrics: StepMetrics) -> str:
    rate = "" if metrics.learning_rate is None else f"lr {metrics.learning_rate:.2e}, "
    speed = metrics.tokens_per_second or 0.0
    told = f"epoch {metrics.epoch:.2f}, loss {metrics.loss:.3f}{_of_pairs(metrics.rewards)}"
    return f"{told}, {rate}{speed:.0f} tokens/s"
