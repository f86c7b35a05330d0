"""`hone-trainer train`: TRL and PEFT do the training; out comes a sealed adapter, or whole weights."""

import importlib.metadata
import json
import time
from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import Artifact, draft, held, seal
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter
from hone_contract.spec_file import dump_run_spec
from hone_contract.store import Store
from hone_trainer import launch
from hone_trainer.models import free_memory, quiet
from hone_trainer.plan import Plan
from hone_trainer.reporting.diary import Diary, begin_diary, failure_told, peak_memory_mb
from hone_trainer.reporting.exporter import Exporter, exporting
from hone_trainer.reporting.run_files import EVENTS, METRICS, REPORT, read_metrics
from hone_trainer.reporting.run_report import RunReport, Sample, write_report
from hone_trainer.reporting.trackers import tracking
from hone_trainer.training.assembling import assemble, computes_in, is_sharded
from hone_trainer.training.checkpoints import Checkpoints
from hone_trainer.training.failures import explained
from hone_trainer.training.finishing import finish
from hone_trainer.training.loop import Loop
from hone_trainer.training.ranks import after_the_first, agreed, first_does, leave, losing_none, rank, world
from hone_trainer.training.stopping import Stopping, stopping
from hone_trainer.training.tokens import Tokenised, tokenise

_TOOLS = ("torch", "transformers", "trl", "peft", "bitsandbytes")


def train(plan: Plan, store: Store, metrics_address: tuple[str, int] | None = None) -> Artifact:
    """Train the planned run, or go on from its newest checkpoint, and seal what comes of it.

    Of several processes the first one does this, and the others `take_part`.

    Raises BadInput for a record that is too long or a loss that is no number, BadConfiguration for what the
    device cannot do, Stopped after SIGTERM or SIGINT, RetryableFailure when the disk is full, ArtifactBusy
    when another process trains this run.
    """
    if launch.world() != world():
        raise BadConfiguration(
            f"WORLD_SIZE is {launch.world()}, but these processes have not met; "
            "let torchrun begin `hone-trainer train`, which brings them together"
        )
    folder = store.run(plan.run_id)
    with (
        held(plan.base.path),
        held(plan.dataset.path),
        draft(plan.target(store), {"run": plan.run_id}) as partial,
        failure_told(folder),
        stopping() as stop,
        exporting(plan.run_id, metrics_address) as exporter,
    ):
        run = _Run(plan, store, exporter, stop)
        with explained(plan, run.checkpoints), losing_none():
            return run.to_the_end(partial)


def take_part(plan: Plan, store: Store) -> None:
    """Train beside the first process, which does all that is done once.

    Leaves with the code of what went wrong when the first one tells of it. Raises BadConfiguration when the
    store is not that of the first one.
    """
    if not plan.base.path.is_dir():
        raise BadConfiguration(
            f"process {rank()} sees no {plan.base.path}, which the first one does; "
            "give all of them one store, on a file system that they share"
        )
    with failure_told(store.run(plan.run_id)), stopping() as stop:
        run = _Run(plan, store, None, stop)
        with explained(plan, run.checkpoints), losing_none():
            run.train(None)


@dataclass
class _Run:
    """A run that this process trains."""

    plan: Plan
    store: Store
    exporter: Exporter | None
    stop: Stopping

    def __post_init__(self) -> None:
        quiet()
        plan = self.plan
        self.folder = self.store.run(plan.run_id)
        self.reporter = Reporter("trainer", self.folder / EVENTS) if rank() == 0 else launch.Silent("trainer")
        self.diary = Diary(self.folder, self.reporter, self.exporter)
        self.checkpoints = Checkpoints(
            self.store, plan.run_id, plan.spec.checkpoints.keep, plan.lineage, self.reporter
        )

    def to_the_end(self, partial: Path) -> Artifact:
        """`partial` becomes what is sealed."""
        try:
            self.train(partial)
        finally:
            self.diary.close()
        self.reporter.tell("probing", "recording what the server will have to reproduce")
        start = time.monotonic()
        samples = finish(self.plan, partial)
        self.diary.seconds["probing"] = time.monotonic() - start
        # Before it is sealed: a run that is sealed is not begun again.
        self._report(samples)
        self.stop.check()
        made = seal(
            partial,
            self.plan.kind,
            self.plan.run_id,
            lineage=self.plan.lineage,
            tools=_versions(),
            metrics=self._metrics(),
        )
        self.diary.set_status("succeeded", self.state)
        metrics = made.manifest.metrics
        told = f"{made.manifest.kind} {self.plan.run_id} in {metrics['seconds']:.0f} s"
        self.reporter.tell("trained", told, run_id=self.plan.run_id, metrics={**metrics})
        return made

    def train(self, partial: Path | None) -> None:
        """What every process does; the first one writes the result to `partial`.

        Leaves nothing of the model in memory: what is proven afterwards is what was written.
        """
        plan, spec = self.plan, self.plan.spec
        newest = first_does(self._begin)
        data = after_the_first(lambda: tokenise(plan, self.store, self.reporter))
        with tracking(spec.training.report_to if rank() == 0 else [], self.folder) as trackers:
            with agreed():
                trainer = assemble(
                    plan, data, self.checkpoints, self.reporter, self.diary, self.stop, trackers
                )
            if is_sharded(spec):
                trainer.shard(computes_in(spec))
            self._tell_start(data, trainer)
            with self.stop.between_steps():
                trainer.resume(newest)
        trainer.write(partial)
        self.state = trainer.state
        del trainer
        free_memory()
        leave()

    def _begin(self) -> Artifact | None:
        """Make the diary ready; the checkpoint to go on from."""
        newest = self.checkpoints.newest()
        if newest is not None:
            self.checkpoints.check_processes(newest, world())
        step = int(newest.manifest.metrics["step"]) if newest else None
        begin_diary(self.folder, dump_run_spec(self.plan.spec), step)
        self.checkpoints.tell_skipped()
        return newest

    def _tell_start(self, data: Tokenised, trainer: Loop) -> None:
        training, records = self.plan.spec.training, len(data.train)
        if training.sharding == "full" and world() == 1:
            told = "training.sharding: there is one process, so the model stays whole"
            self.reporter.tell("not_sharded", told, level="warning")
        trainable = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
        length = (
            f"{training.epochs:g} epochs" if training.max_steps is None else f"{training.max_steps} steps"
        )
        tokens = data.train.tokens
        self.reporter.tell(
            "training_started",
            f"run {self.plan.run_id}: {records} records, {tokens} tokens an epoch, {length}, "
            f"{trainable:,} trainable parameters",
            run_id=self.plan.run_id,
            records=records,
            tokens_per_epoch=tokens,
            trainable_parameters=trainable,
        )

    def _metrics(self) -> dict[str, float]:
        diary = self.diary
        losses = {"eval_loss_before": diary.eval_loss_before, "eval_loss_after": self._eval_loss()}
        return {
            "seconds": sum(diary.seconds.values()),
            "tokens": float(diary.tokens),
            "tokens_per_second": diary.tokens_per_second,
            "peak_memory_mb": peak_memory_mb(),
            **{name: loss for name, loss in losses.items() if loss is not None},
            **self._of_pairs(),
        }

    def _of_pairs(self) -> dict[str, float]:
        """What is said of preference pairs that were set aside, of what is sealed."""
        rewards = self.diary.eval_rewards
        if self.plan.spec.wants_best:
            told = read_metrics(self.folder / METRICS)
            best = [line.eval_rewards for line in told if line.step == self.state.best_global_step]
            rewards = next((each for each in best if each is not None), None)
        if rewards is None:
            return {}
        return {"eval_reward_margin": rewards.margin, "eval_reward_accuracy": rewards.accuracy}

    def _eval_loss(self) -> float | None:
        """Of what is sealed: the best checkpoint, if that is what the spec wants."""
        return self.state.best_metric if self.plan.spec.wants_best else self.diary.eval_loss

    def _report(self, samples: list[Sample]) -> None:
        dataset = json.loads((self.plan.dataset.path / "report.json").read_text(encoding="utf-8"))
        write_report(
            self.folder / REPORT,
            RunReport(
                run_id=self.plan.run_id,
                metrics=self.folder / METRICS,
                spec=dump_run_spec(self.plan.spec),
                dataset=dataset,
                samples=samples,
                seconds=self.diary.seconds,
                tokens_per_second=self.diary.tokens_per_second,
                memory_mb=peak_memory_mb(),
                tools=_versions(),
                lineage=self.plan.lineage,
                notes=self._notes(),
            ),
        )

    def _notes(self) -> list[str]:
        best = self.state.best_global_step
        if not self.plan.spec.wants_best or best in (None, self.state.global_step):
            return []
        return [f"What is sealed is the checkpoint after step {best}, which had the lowest evaluation loss."]


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _TOOLS}
