"""The adapter model as PEFT makes it, with the whole base in memory: an import lets it talk."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging


def load_adapter_model(base: Path, adapter: Path, vocabulary: int) -> Any:
    """In float32 and evaluation mode, with so many rows of embeddings as the adapter was trained with."""
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if model.get_input_embeddings().weight.shape[0] != vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    with warnings.catch_warnings():
        # PEFT warns of tied embeddings, whose merge is ours.
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, adapter).eval()
