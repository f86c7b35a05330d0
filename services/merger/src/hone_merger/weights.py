"""Weights that full fine-tuning made: nothing is left to compute, so their files are copied."""

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from hone_contract.errors import BadInput

_FILES = ("model*.safetensors", "model.safetensors.index.json")


def fit_weights(weights: Path, base: Path) -> Any:
    """The base's model with the names and shapes of these weights, on the meta device: no tensor is read.

    Raises BadInput unless the weights fill the base's architecture and nothing is left over.
    """
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    # What does not fit is told by one sentence below, not by transformers' table.
    transformers_logging.set_verbosity_error()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            weights,
            config=AutoConfig.from_pretrained(base),
            dtype="auto",
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except OSError as error:
        raise BadInput(f"{weights} cannot be loaded: {' '.join(str(error).split())[:400]}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if odd := _differences(report):
        raise BadInput(f"{weights}: {odd[0]} ({len(odd)} such); nothing was merged")
    return model


def copy_weights(weights: Path, target: Path) -> None:
    """Byte for byte: names, number formats and shards stay as they were trained."""
    for path in weights_files(weights):
        shutil.copyfile(path, target / path.name)


def weights_files(weights: Path) -> list[Path]:
    """The shards and their index, sorted."""
    return sorted(path for pattern in _FILES for path in weights.glob(pattern))


def _differences(report: dict[str, Any]) -> list[str]:
    shapes = [
        f"tensor {name} has the shape {tuple(ours)}, and in the base {tuple(theirs)}"
        for name, ours, theirs in sorted(report["mismatched_keys"])
    ]
    missing = [f"tensor {name} of the base is missing" for name in sorted(report["missing_keys"])]
    left = [f"tensor {name} has no place in the base" for name in sorted(report["unexpected_keys"])]
    return shapes + missing + left
