"""Stands in for Unsloth, which needs a GPU: takes the arguments that its documentation names, and no others.

What it was called with, and what was imported before it, is written to the file STAND_IN_RECORD names.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_before = [name for name in ("transformers", "trl", "peft") if name in sys.modules]

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


def _record(call: str, **arguments: Any) -> None:
    told = {"call": call, "imported_before": _before, **arguments}
    with Path(os.environ["STAND_IN_RECORD"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(told, default=str) + "\n")


class FastLanguageModel:
    @staticmethod
    def from_pretrained(
        model_name: str = "unsloth/Llama-3.2-1B-Instruct",
        max_seq_length: int = 2048,
        dtype: Any = None,
        load_in_4bit: bool = True,
        use_gradient_checkpointing: bool | str = "unsloth",
        use_exact_model_name: bool = False,
        random_state: int = 3407,
    ) -> tuple[Any, None]:
        _record(
            "from_pretrained",
            model_name=model_name,
            max_seq_length=max_seq_length,
            dtype=dtype,
            load_in_4bit=load_in_4bit,
            use_gradient_checkpointing=use_gradient_checkpointing,
            use_exact_model_name=use_exact_model_name,
            random_state=random_state,
        )
        return AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype), None

    @staticmethod
    def get_peft_model(
        model: Any,
        r: int = 16,
        target_modules: Any = (),
        lora_alpha: int = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        use_gradient_checkpointing: bool | str = "unsloth",
        random_state: int = 3407,
        max_seq_length: int = 2048,
        use_rslora: bool = False,
        modules_to_save: Any = None,
        **of_lora_config: Any,
    ) -> Any:
        lora = {
            "r": r,
            "target_modules": target_modules,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "bias": bias,
            "use_rslora": use_rslora,
            "modules_to_save": modules_to_save,
            **of_lora_config,
        }
        _record(
            "get_peft_model",
            use_gradient_checkpointing=use_gradient_checkpointing,
            random_state=random_state,
            max_seq_length=max_seq_length,
            **lora,
        )
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
