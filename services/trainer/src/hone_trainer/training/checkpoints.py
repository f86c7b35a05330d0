"""A run's checkpoints: sealed as any artifact, so that a half-written one is never gone on from."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hone_contract.artifact import PARTIAL, Artifact, draft, open_artifact, remove, seal
from hone_contract.errors import ArtifactCorrupt, ArtifactIncomplete, ArtifactMissing, BadConfiguration
from hone_contract.events import Reporter
from hone_contract.manifest import Source
from hone_contract.store import Store
from hone_trainer.training.disk_full import DISK_ERRORS, disk_full, is_disk_full

_BROKEN = (ArtifactCorrupt, ArtifactIncomplete, ArtifactMissing)


@dataclass(frozen=True)
class Checkpoints:
    """Those of one run. `best` among a checkpoint's metrics is the step of the best one until then."""

    store: Store
    run_id: str
    keep: int
    """How many of the newest stay."""
    lineage: dict[str, Source]
    reporter: Reporter
    skipped: dict[int, str] = field(default_factory=dict)
    """Steps of those that `newest` found damaged, and how."""

    @property
    def folder(self) -> Path:
        return self.store.checkpoint(self.run_id, 0).parent

    def place(self, step: int) -> Path:
        return self.store.checkpoint(self.run_id, step)

    def steps(self) -> list[int]:
        """Steps that have a folder of their own name, the newest first."""
        found = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(step) for step in found if step.isdecimal()), reverse=True)

    def newest(self) -> Artifact | None:
        """The newest that is whole, every byte read, and so is the best one until then.

        Newer ones and half-written ones are removed.
        """
        for path in self.folder.glob(f"step-*{PARTIAL}*"):
            shutil.rmtree(path)
        for step in self.steps():
            try:
                found = open_artifact(self.place(step), "checkpoint", digests=True)
                if (best := _best(found)) is not None and best != step:
                    open_artifact(self.place(best), "checkpoint", digests=True)
                return found
            except _BROKEN as error:
                self.skipped[step] = str(error)
                remove(self.place(step))
        return None

    def tell_skipped(self) -> None:
        """Tell of the damaged ones, once the diary is ready for it."""
        for step, why in self.skipped.items():
            self.reporter.tell(
                "checkpoint_skipped", f"checkpoint step-{step} is left out: {why}", level="warning", step=step
            )

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> Artifact:
        """Seal what `write` puts into a folder as the checkpoint after `step`.

        Raises RetryableFailure when the disk is full; the checkpoints before stay as they are.
        """
        try:
            with draft(self.place(step), {"run": self.run_id, "step": step}) as partial:
                try:
                    write(partial)
                    return seal(
                        partial,
                        "checkpoint",
                        f"{self.run_id}/step-{step}",
                        lineage=self.lineage,
                        metrics=metrics,
                    )
                finally:
                    # Once it is sealed there is none.
                    shutil.rmtree(partial, ignore_errors=True)
        except DISK_ERRORS as error:
            if is_disk_full(error):
                newest = next(iter(self.steps()), None)
                what = f"checkpoint step-{step} could not be written"
                raise disk_full(what, self.folder, newest, error) from error
            raise

    def prune(self) -> None:
        """Remove all but the newest, and the best until each of them: the run may go on from any of them."""
        kept = set(self.steps()[: self.keep])
        for step in list(kept):
            with suppress(*_BROKEN):
                kept.add(_best(open_artifact(self.place(step), "checkpoint")) or step)
        for step in self.steps():
            if step not in kept:
                remove(self.place(step))

    def check_processes(self, checkpoint: Artifact, processes: int) -> None:
        """Raises BadConfiguration when the run was begun on another number of processes."""
        before = int(checkpoint.manifest.metrics["processes"])
        if before != processes:
            raise BadConfiguration(
                f"run {self.run_id} was begun on {_processes(before)}; on {_processes(processes)} its random "
                f"numbers would be others. Use {before}, or remove {self.folder} to begin anew"
            )


def _best(checkpoint: Artifact) -> int | None:
    step = checkpoint.manifest.metrics.get("best")
    return None if step is None else int(step)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
