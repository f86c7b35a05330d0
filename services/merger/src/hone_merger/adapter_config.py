"""Reads a PEFT adapter's configuration and says, before torch is imported, why it cannot be merged."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

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
    config = _read_json(folder / CONFIG)
    if reason := _refusal(config):
        raise BadInput(f"{folder}: {reason}")
    names = _adapted(folder / WEIGHTS) + (config.get("modules_to_save") or [])
    if _is_tied(base) and (name := _touched_embedding(names)):
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
    """Some tied bases do not say so, as it is their architecture's default."""
    return bool(_read_json(base / "config.json").get("tie_word_embeddings", True))


def _adapted(weights: Path) -> list[str]:
    """Modules that have LoRA tensors: target_modules may be a regular expression, these are not."""
    try:
        with safe_open(weights, "numpy") as file:
            return sorted({name.partition(".lora_")[0] for name in file.keys() if ".lora_" in name})
    except SafetensorError as error:
        raise BadInput(f"{weights} cannot be read as safetensors: {error}") from error


def _touched_embedding(names: list[str]) -> str | None:
    # PEFT saves each layer whose name ends with an entry of modules_to_save: `head` is lm_head too.
    ends = {name.rsplit(".", 1)[-1] for name in names}
    return next((name for name in _EMBEDDINGS if any(name.endswith(end) for end in ends)), None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is no JSON object")
    return value
