"""Trackers that a run reports to (`training.report_to`), each through transformers' own integration."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hone_contract.errors import BadConfiguration
from hone_trainer.reporting.run_files import TENSORBOARD

_PACKAGES = {
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
}
_PROJECT = "hone"


def check_trackers(names: Sequence[str]) -> None:
    """Raises BadConfiguration for a tracker whose package is missing, with the command to install it."""
    for name in names:
        packages = _PACKAGES[name]
        if not any(importlib.util.find_spec(package) for package in packages):
            raise BadConfiguration(
                f"training.report_to: {name} is not installed here; run `pip install {packages[0]}`, "
                "or leave it out"
            )


@contextmanager
def tracking(names: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """What TrainingArguments needs to report to these trackers; the body makes the trainer and trains.

    The run is named by its id, which its folder is named by, in the project (MLflow: the experiment) `hone`.
    TensorBoard's and wandb's files go to that folder. A tracker's own environment variable, when it is set,
    says otherwise.
    """
    before = {variable: os.environ.get(variable) for name in names for variable in _settings(name, folder)}
    for name in names:
        for variable, value in _settings(name, folder).items():
            os.environ.setdefault(variable, value)
    try:
        yield {"report_to": list(names) or "none", "run_name": _run_name(names, folder), "project": _PROJECT}
    finally:
        # Another run of this process has another folder.
        for variable in (variable for variable, value in before.items() if value is None):
            del os.environ[variable]


def _run_name(names: Sequence[str], folder: Path) -> str:
    # The integration hands a name to wandb, which then asks its own variable no more.
    return ("wandb" in names and os.environ.get("WANDB_NAME")) or folder.name


def _settings(name: str, folder: Path) -> dict[str, str]:
    """Environment variables that a tracker or its integration reads, where TrainingArguments has no field."""
    return {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / TENSORBOARD)},
        "wandb": {"WANDB_PROJECT": _PROJECT, "WANDB_DIR": str(folder)},
        # MLflow tells its makers of its use unless it is asked not to.
        "mlflow": {"MLFLOW_EXPERIMENT_NAME": _PROJECT, "MLFLOW_DISABLE_TELEMETRY": "true"},
    }.get(name, {})
