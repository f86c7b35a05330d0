"""When a run evaluates, saves and stops. Trainer's own strategies know only some of it."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hone_contract.run_spec import RunSpec
from hone_trainer.training.ranks import any_of
from hone_trainer.training.stopping import Stopped, Stopping


class Rhythm(TrainerCallback):  # type: ignore[misc]
    """Decides it all at the end of a step, so that a run that goes on from there has missed nothing."""

    def __init__(self, spec: RunSpec, steps_an_epoch: int, evaluates: bool, stopping: Stopping) -> None:
        self.spec = spec
        self.evaluation = spec.training.eval_steps or steps_an_epoch
        """Optimiser steps between evaluations."""
        self.evaluates = evaluates
        self.stopping = stopping

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        evaluation = last or step % self.evaluation == 0
        saving = self.spec.checkpoints.save_steps
        control.should_evaluate = self.evaluates and evaluation
        by_evaluation = saving is None or self.spec.wants_best
        control.should_save = (
            last
            or self._stops()
            or (evaluation and by_evaluation)
            or (saving is not None and step % saving == 0)
        )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # What was due was done at the end of the epoch's last step.
        control.should_evaluate = control.should_save = control.should_log = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._stops() and not control.should_training_stop:
            raise Stopped(f"stopped at step {state.global_step}; the same command goes on from there")

    def _stops(self) -> bool:
        """Every process asks at the same places, so that all of them stop at the same step."""
        return any_of(self.stopping.requested)
