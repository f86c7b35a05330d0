"""From the spec's `lora` to PEFT's layers, with what PEFT would pass over in silence refused."""

import re
from typing import Any

import torch
from peft import LoraConfig
from transformers.pytorch_utils import Conv1D

from hone_contract.errors import BadConfiguration
from hone_contract.run_spec import LoraSpec
from hone_trainer.layer_names import PROJECTIONS, is_named, matches

_ADAPTABLE = (torch.nn.Linear, torch.nn.Embedding, Conv1D)


def lora_config(model: Any, lora: LoraSpec) -> LoraConfig:
    """PEFT's configuration of the adapter for this base.

    Raises BadConfiguration for a layer that the base lacks, or whose adapter would not be trained.
    """
    targets = list(PROJECTIONS) if lora.target_modules == "projections" else lora.target_modules
    layers = [name for name, module in model.named_modules() if isinstance(module, _ADAPTABLE)]
    _check_names("target_modules", layers, [] if isinstance(targets, str) else targets)
    every = [name for name, _ in model.named_modules()]
    _check_names("modules_to_save", every, lora.modules_to_save)
    adapted = [name for name in layers if isinstance(targets, str) or is_named(name, targets)]
    if not isinstance(targets, str):
        _check_head(model, adapted)
    for field in ("rank_pattern", "alpha_pattern"):
        _check_patterns(field, getattr(lora, field), adapted)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        rank_pattern=lora.rank_pattern,
        alpha_pattern=lora.alpha_pattern,
        # In full: PEFT goes by how names end, and `norm` would be `input_layernorm` too.
        modules_to_save=[each for each in every if is_named(each, lora.modules_to_save)] or None,
        task_type="CAUSAL_LM",
    )


def _check_names(field: str, layers: list[str], names: list[str]) -> None:
    """PEFT passes over a layer that the base has not, as long as it has another of the list."""
    for name in names:
        if not any(is_named(layer, [name]) for layer in layers):
            known = ", ".join(sorted({layer.rpartition(".")[2] for layer in layers} - {""}))
            raise BadConfiguration(f"lora.{field}: the base has no layer {name!r}; it has {known}")


def _check_head(model: Any, adapted: list[str]) -> None:
    """TRL refuses it, since the loss is made from the head's own weights."""
    for name in adapted:
        if model.get_submodule(name) is model.get_output_embeddings():
            raise BadConfiguration(
                f"lora.target_modules: an adapter of the output head, {name!r}, would not be trained; leave "
                "it out, or train the head as a whole with lora.modules_to_save"
            )


def _check_patterns(field: str, patterns: dict[str, int], layers: list[str]) -> None:
    for pattern in patterns:
        try:
            is_found = any(matches(pattern, layer) for layer in layers)
        except re.error as error:
            raise BadConfiguration(f"lora.{field}: {pattern!r} is no regular expression: {error}") from error
        if not is_found:
            raise BadConfiguration(
                f"lora.{field}: {pattern!r} matches no layer that gets an adapter; "
                "write a layer's name, such as q_proj"
            )
