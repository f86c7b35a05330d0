"""Writes what was trained: an adapter as PEFT has it, or whole weights."""

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig


def write_trained(model: Any, folder: Path, state: dict[str, Any] | None = None) -> None:
    """Into an existing or new folder, as safetensors; `state` is a gathered state dict of the model."""
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            # A set is written in another order by every process; the same run makes the same bytes.
            config.target_modules = _in_order(config.target_modules)
        # LoRA never changes the base's own embeddings; PEFT would ask the Hub whether they grew.
        model.save_pretrained(folder, state_dict=state, safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        _write_whole(model, folder, state)


def _write_whole(model: Any, folder: Path, state: dict[str, Any] | None) -> None:
    generation = model.generation_config
    # Transformers refuses to write some settings that bases have (a temperature without do_sample).
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder, state_dict=state)
    model.generation_config = generation
    generation.to_json_file(folder / "generation_config.json")
    if state is not None:
        _tell_dtype(folder / "config.json", state)


def _tell_dtype(file: Path, state: dict[str, Any]) -> None:
    """Transformers tells that of the model, which a gathered state need not have."""
    dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    config = json.loads(file.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _in_order(targets: Any) -> Any:
    return sorted(targets) if isinstance(targets, set) else targets
