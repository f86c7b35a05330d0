"""Reads a PEFT adapter's configuration and says, before torch is imported, why it cannot be merged."""

import json
from pathlib import Path
from typing import Any

from hone_contract.errors import BadInput

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# Initialisations that change the base's weights: the adapter alone is not the difference to it.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")


def check_adapter(folder: Path, base: Path) -> None:
    """Raises BadInput with what the user needs to know when the adapter cannot be merged exactly."""
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{folder} is no PEFT adapter: there is no {CONFIG}")
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} has no {WEIGHTS}; save the adapter again with safe_serialization=True")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if reason := _refusal(config):
        raise BadInput(f"{folder}: {reason}")
    if _is_tied(base) and (name := _touched_embedding(config)):
        raise BadInput(
            f"{folder}: adapts {name}, but this base ties its input and output embeddings, and PEFT's merge "
            "of those changes both; train again without it"
        )


def _refusal(config: dict[str, Any]) -> str | None:
    if config.get("peft_type") != "LORA":
        return f"is a {config.get('peft_type')} adapter; only LoRA adapters can be merged"
    initialised = config.get("init_lora_weights")
    if isinstance(initialised, str) and initialised.lower().startswith(_CHANGES_BASE):
        return (
            f"was initialised by {initialised}, which changes the base; convert it with PEFT's "
            "path_initial_model_for_weight_conversion first"
        )
    if config.get("alora_invocation_tokens"):
        return "is an activated LoRA, which works only on a part of each text and cannot be merged"
    return None


def _is_tied(base: Path) -> bool:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("tie_word_embeddings", False))


def _touched_embedding(config: dict[str, Any]) -> str | None:
    targets = config.get("target_modules") or []
    named = [targets] if isinstance(targets, str) else list(targets)
    named += config.get("modules_to_save") or []
    found = (name for name in named if name.rsplit(".", 1)[-1] in _EMBEDDINGS)
    return next(found, None)
