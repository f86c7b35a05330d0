"""Writes what was trained: an adapter as PEFT has it, or whole weights."""

from pathlib import Path
from typing import Any

from peft import PeftModel


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
        model.save_pretrained(folder, state_dict=state)


def _in_order(targets: Any) -> Any:
    return sorted(targets) if isinstance(targets, set) else targets
