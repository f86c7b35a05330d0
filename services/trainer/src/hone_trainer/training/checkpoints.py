"""A run's checkpoints: sealed as any artifact, so that a half-written one is never gone on from."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from hone_contract.artifact import PARTIAL, Artifact, draft, open_artifact, seal
from hone_contract.errors import ArtifactCorrupt, ArtifactIncomplete, BadConfiguration, RetryableFailure
from hone_contract.events import Reporter
from hone_contract.manifest import Source
from hone_contract.store import Store

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Checkpoints:
    """Those of one run."""

    store: Store
    run_id: str
    keep: int
    """How many of the newest stay."""
    lineage: dict[str, Source]
    reporter: Reporter

    @property
    def folder(self) -> Path:
        return self.store.checkpoint(self.run_id, 0).parent

    def steps(self) -> list[int]:
        """Steps that have a folder of their own name, the newest first."""
        found = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(step) for step in found if step.isdecimal()), reverse=True)

    def newest(self) -> Artifact | None:
        """The newest that is whole, every byte read; newer ones and half-written ones are removed."""
        for path in self.folder.glob(f"step-*{PARTIAL}*"):
            shutil.rmtree(path)
        for step in self.steps():
            path = self.store.checkpoint(self.run_id, step)
            try:
                return open_artifact(path, "checkpoint", digests=True)
            except (ArtifactCorrupt, ArtifactIncomplete) as error:
                self.reporter.tell("checkpoint_skipped", str(error), level="warning", step=step)
                shutil.rmtree(path)
        return None

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> Artifact:
        """Seal what `write` puts into a folder as the checkpoint after `step`.

        Raises RetryableFailure when the disk is full; the checkpoints before stay as they are.
        """
        target = self.store.checkpoint(self.run_id, step)
        try:
            with draft(target, {"run": self.run_id, "step": step}) as partial:
                try:
                    write(partial)
                    return seal(
                        partial,
                        "checkpoint",
                        f"{self.run_id}/step-{step}",
                        lineage=self.lineage,
                        metrics=metrics,
                    )
                except BaseException:
                    shutil.rmtree(partial, ignore_errors=True)
                    raise
        except (OSError, SafetensorError, RuntimeError) as error:
            if _is_disk_full(error):
                raise self._disk_full(step, error) from error
            raise

    def prune(self, best: Path | None) -> None:
        """Remove all but the newest, and the best."""
        for step in self.steps()[self.keep :]:
            path = self.store.checkpoint(self.run_id, step)
            if best is None or path != best:
                shutil.rmtree(path)

    def check_processes(self, checkpoint: Artifact, processes: int) -> None:
        """Raises BadConfiguration when the run was begun on another number of processes."""
        before = int(checkpoint.manifest.metrics["processes"])
        if before != processes:
            raise BadConfiguration(
                f"run {self.run_id} was begun on {before} processes, and this is one of {processes}, which "
                f"would learn from other records; use {before}, or remove {self.folder} to begin anew"
            )

    def _disk_full(self, step: int, error: Exception) -> RetryableFailure:
        free = shutil.disk_usage(self.folder).free / 1e6
        kept = self.steps()
        before = f"step-{kept[0]}" if kept else "none"
        return RetryableFailure(
            f"checkpoint step-{step} could not be written, {free:.0f} MB are free in {self.folder}: "
            f"{str(error).splitlines()[0]}; make room and run the same command again, the newest checkpoint "
            f"is {before}"
        )


def _is_disk_full(error: Exception) -> bool:
    """torch.save and safetensors tell it in words of their own."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    text = str(error)
    told = any(word in text for word in ("No space left", "File too large", "os error 28", "os error 27"))
    return told or ("PytorchStreamWriter" in text or "unexpected pos" in text)
