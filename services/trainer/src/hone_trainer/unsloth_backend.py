"""`backend: unsloth`: Unsloth loads the base and adds the adapter; everything else is as with Transformers.

It is imported and nothing else: no line of it is taken over (docs/decisions/008-licences.md). No other
module of Hone knows it, and this one imports neither it nor torch before a run asks for it.
"""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone_contract.errors import BadConfiguration
from hone_contract.run_spec import RunSpec

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

_INSTEAD = "or leave `backend` out, for Transformers"


def import_unsloth(spec: RunSpec) -> Any:
    """The package, which must be imported before transformers, trl and peft, since it changes them.

    Raises BadConfiguration when it is not installed, sees no GPU, or the spec asks for what it cannot do.
    """
    if importlib.util.find_spec("unsloth") is None:
        raise BadConfiguration(
            f"backend: unsloth is not installed here; run `pip install 'hone-trainer[unsloth]'`, {_INSTEAD}"
        )
    if spec.training.packing is True:
        raise BadConfiguration(
            f"training.packing: true is not for backend: unsloth, which pads batches; use auto, {_INSTEAD}"
        )
    if (count := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise BadConfiguration(
            f"backend: unsloth trains in one process on one GPU, not in {count}; start one, {_INSTEAD}"
        )
    if not _sees_gpu():
        raise BadConfiguration(
            f"backend: unsloth needs a GPU, and this process sees none; run it where there is one, {_INSTEAD}"
        )
    # It tells its makers of every run where this is not set.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    return importlib.import_module("unsloth")


def load_base(folder: Path, spec: RunSpec, dtype: "torch.dtype") -> Any:
    """The base, in 4 bits for `qlora`; it computes in `dtype`. Raises as `import_unsloth` does."""
    model, _ = import_unsloth(spec).FastLanguageModel.from_pretrained(
        # A relative path could be taken for a name on the Hub, and a name for one of Unsloth's own copies.
        model_name=str(folder.absolute()),
        use_exact_model_name=True,
        max_seq_length=spec.training.max_length,
        dtype=dtype,
        load_in_4bit=spec.method == "qlora",
        use_gradient_checkpointing=_checkpointing(spec),
        random_state=spec.training.seed,
    )
    return model


def add_adapter(model: Any, spec: RunSpec, lora: "LoraConfig") -> Any:
    """`model`, from `load_base`, with an adapter; a PEFT model."""
    targets = lora.target_modules
    return import_unsloth(spec).FastLanguageModel.get_peft_model(
        model,
        r=lora.r,
        target_modules=targets if isinstance(targets, str) else sorted(targets),
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        bias="none",
        use_gradient_checkpointing=_checkpointing(spec),
        random_state=spec.training.seed,
        max_seq_length=spec.training.max_length,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        rank_pattern=lora.rank_pattern,
        alpha_pattern=lora.alpha_pattern,
        modules_to_save=lora.modules_to_save,
    )


def _checkpointing(spec: RunSpec) -> bool | str:
    """Its own kind, which it calls by its name, unless the spec says."""
    wanted = spec.training.gradient_checkpointing
    return "unsloth" if wanted == "auto" else wanted


def _sees_gpu() -> bool:
    return bool(importlib.import_module("torch").cuda.is_available())
