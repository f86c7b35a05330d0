"""A job's folder: what its stages read, and where the trainer leaves the run's id."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hone_api.database.tables import Job
from hone_api.jobs.extras import read_extras
from hone_api.settings import Tunable
from hone_contract.artifact import write_atomically

TRAIN, EVAL = "train.jsonl", "eval.jsonl"
"""The names of the examples in a job's folder."""


@dataclass(frozen=True)
class Workspace:
    """One folder below the api's data."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def run_id_file(self) -> Path:
        """In a folder of its own, which is all of this one that a stage may write to."""
        return self.folder / "out" / "run-id"

    def take(self, training: Path, validation: Path | None) -> None:
        """The examples, by another name of the same bytes: whoever deletes a file does not stop a job."""
        self.run_id_file.parent.mkdir(parents=True, exist_ok=True)
        for name, source in ((TRAIN, training), (EVAL, validation)):
            if source is not None and not (self.folder / name).exists():
                os.link(source, self.folder / name)

    def write_spec(self, job: Job, tunable: Tunable) -> None:
        """The run that the trainer is to train; the same job makes the same bytes, and so the same run."""
        has_eval = (self.folder / EVAL).exists()
        write_atomically(self.spec, yaml.safe_dump(_spec(job, tunable, has_eval), sort_keys=False))

    def remove(self) -> None:
        """All of it. Whoever is killed meanwhile leaves a part, which is removed in the same way."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)


def run_name(job: Job) -> str:
    """Of the run and the adapter that a job makes; ids have no letters that a name has not."""
    return job.id


def _spec(job: Job, tunable: Tunable, has_eval: bool) -> dict[str, Any]:
    extras, chosen = read_extras(job.labels), job.resolved
    # OpenAI learns from every example as it is, and judges by those of the other file only.
    data: dict[str, Any] = {
        "train": TRAIN,
        "eval_fraction": 0.0,
        "clean": {"trim": False, "duplicates": False, "near_duplicates": None},
    }
    if has_eval:
        data["eval"] = EVAL
    prefers = job.method["type"] == "dpo"
    learning_rate = tunable.dpo_learning_rate if prefers else tunable.learning_rate
    return {
        "name": run_name(job),
        "model": {"name": tunable.base},
        "method": extras.method or tunable.method,
        **({"objective": "dpo", "dpo": {"beta": chosen["beta"]}} if prefers else {}),
        "data": data,
        "lora": extras.lora(tunable),
        "training": {
            "epochs": chosen["n_epochs"],
            "batch_size": chosen["batch_size"],
            "learning_rate": learning_rate * chosen["learning_rate_multiplier"],
            "seed": job.seed,
            "report_to": [each["type"] for each in job.integrations],
        },
        "checkpoints": {"keep": 3},
    }
