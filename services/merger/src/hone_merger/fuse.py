"""Loads base and adapter with PEFT; fuses the two."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from hone_contract.errors import BadInput
from hone_merger.adapter_config import WEIGHTS


def load_model(folder: Path, dtype: torch.dtype | str) -> Any:
    """A model in evaluation mode; dtype "auto" is the one that it is stored in."""
    transformers_logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def attach(base: Any, adapter: Path) -> PeftModel:
    """The adapter model. Raises BadInput unless every tensor of the adapter found its place."""
    try:
        with warnings.catch_warnings():
            # PEFT only warns of tensors that it does not find; they are compared below.
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(base, adapter).eval()
    except (RuntimeError, ValueError) as error:
        # The tensor that does not fit stands below PyTorch's heading.
        reason = " ".join(str(error).split())[:400]
        raise BadInput(f"{adapter}: does not fit its base: {reason}") from error
    # Without False, PEFT asks the Hub whether the base's vocabulary has grown.
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(adapter / WEIGHTS, "pt") as file:
        # PEFT puts the base's own embeddings beside an adapter of them.
        found = {name for name in file.keys() if not name.endswith(".base_layer.weight")}
    if odd := sorted(expected ^ found):
        what = "has no place in the base" if odd[0] in found else "is missing from the adapter"
        raise BadInput(f"{adapter}: tensor {odd[0]} {what} ({len(odd)} such); nothing was merged")
    return model


def fuse(base: Path, adapter: Path) -> Any:
    """The fused model in the base's dtype: W + scale * B @ A in float32, rounded once."""
    fused: Any = attach(load_model(base, "auto"), adapter).merge_and_unload()
    return fused
