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
# What PEFT itself cannot merge, or not into the layers that the base has.
_NOT_A_SUM = {
    "alora_invocation_tokens": "is an activated LoRA, which works only on a part of each text",
    "arrow_config": "is an Arrow router over other adapters, which chooses anew for each token",
    "use_qalora": "is a QALoRA adapter, which adds to a base in groups of 4 bits",
    "monteclora_config": "is a MonteCLoRA adapter, whose noise is drawn anew each time",
    "layer_replication": "repeats layers of its base (layer_replication), so it has no place in the base",
}


def check_adapter(folder: Path) -> None:
    """Raises BadInput with what the user needs to know when the adapter cannot be merged exactly."""
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{folder} is no PEFT adapter: there is no {CONFIG}")
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} has no {WEIGHTS}; save the adapter again with safe_serialization=True")
    if reason := _refusal(read_json(folder / CONFIG)):
        raise BadInput(f"{folder}: {reason}")
    try:
        with safe_open(folder / WEIGHTS, "numpy"):
            pass
    except SafetensorError as error:
        raise BadInput(f"{folder / WEIGHTS} cannot be read as safetensors: {error}") from error


def named_base(folder: Path) -> str | None:
    """The base by the adapter's own configuration: a Hub id, or a path's last part; None: it names none."""
    name = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return None
    return Path(name).name if is_path(name) else name


def is_path(name: str) -> bool:
    """Whether a base is named by where it lay on some machine, and not as the Hub does."""
    return name.startswith(("/", ".", "~"))


def _refusal(config: dict[str, Any]) -> str | None:
    if config.get("peft_type") != "LORA":
        return f"is a {config.get('peft_type')} adapter; only LoRA adapters can be merged"
    initialised = config.get("init_lora_weights")
    if isinstance(initialised, str) and initialised.lower().startswith(_CHANGES_BASE):
        return (
            f"was initialised by {initialised}, which changes the base; convert it with PEFT's "
            "path_initial_model_for_weight_conversion first"
        )
    if initialised == "mica":
        return "is a MiCA adapter, whose merge was not proven yet; serve it beside its base"
    for key, reason in _NOT_A_SUM.items():
        if config.get(key):
            return f"{reason}; it cannot be merged: serve it beside its base"
    return None


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is no JSON object")
    return value
