"""The adapter model without the base's weights, so that PEFT's own layers can do the arithmetic."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hone_contract.errors import BadInput
from hone_merger.adapter_config import WEIGHTS

ADAPTER = "default"


def base_skeleton(base: Path, adapter: Path) -> PreTrainedModel:
    """The base on the meta device, with as many rows of embeddings as the adapter was trained with."""
    transformers_logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        rows = _rows_of_embeddings(model, adapter)
        if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows, mean_resizing=False)
    return model.eval()


def _rows_of_embeddings(model: PreTrainedModel, adapter: Path) -> int | None:
    """None: the adapter has no embeddings of its own."""
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings)
    with safe_open(adapter / WEIGHTS, "pt") as file:
        for end in ("weight", "base_layer.weight", "token_adapter.base_layer.weight"):
            if f"base_model.model.{name}.{end}" in file.keys():
                rows: int = file.get_slice(f"base_model.model.{name}.{end}").get_shape()[0]
                return rows
    return None


def adapter_skeleton(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """PEFT's model on the meta device, but for the adapter's tensors, which are read; float32 as PEFT has it.

    What PEFT does when it loads an adapter (`PeftModel.load_adapter`, peft_model.py), but for one thing: the
    adapter does not go to the device of a base that has none.
    Raises BadInput unless every tensor of the adapter found its place, and every place its tensor.
    """
    config = PeftConfig.from_pretrained(adapter)
    config.inference_mode = True
    # Any other would be computed from the base's weights, only to be overwritten by the adapter's.
    config.init_lora_weights = True
    try:
        with warnings.catch_warnings():
            # PEFT warns of tied embeddings, which `layout` knows of, and of patterns that match nothing.
            warnings.simplefilter("ignore")
            model: Any = get_peft_model(base, config, low_cpu_mem_usage=True)
            for module in model.modules():
                if isinstance(module, BaseTunerLayer):
                    module._move_adapter_to_device_of_base_layer = _stay
            _load(model, adapter)
    except (RuntimeError, ValueError, KeyError) as error:
        # The tensor that does not fit stands below PyTorch's heading.
        reason = " ".join(str(error).split())[:400]
        raise BadInput(f"{adapter}: does not fit its base: {reason}") from error
    cast_adapter_dtype(model, ADAPTER, True)
    skeleton: PeftModel = model.eval()
    return skeleton


def _stay(*_: object, **__: object) -> None:
    """In the place of PEFT's `_move_adapter_to_device_of_base_layer`, which would lose the adapter."""


def _load(model: Any, adapter: Path) -> None:
    tensors = load_peft_weights(str(adapter), device="cpu")
    _check_filled(tensors, adapter)
    tensors = {name: tensor for name, tensor in tensors.items() if not _is_repeated(name, tensors)}
    loaded = set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
    homeless = sorted(name.replace(f".{ADAPTER}", "") for name in loaded.unexpected_keys)
    homeless = [name for name in homeless if not _is_tied_tokens(name, tensors)]
    # Without False, PEFT asks the Hub whether the base's vocabulary has grown.
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing = sorted(name for name, tensor in own.items() if tensor.is_meta)
    if odd := homeless or missing:
        what = "has no place in the base" if homeless else "is missing from the adapter"
        raise BadInput(f"{adapter}: tensor {odd[0]} {what} ({len(odd)} such); nothing was merged")


def _is_repeated(name: str, tensors: Mapping[str, torch.Tensor]) -> bool:
    """With grown embeddings PEFT saves those that it has twice, and the base's beside them."""
    for end in (".modules_to_save.weight", ".original_module.weight"):
        if name.endswith(end) and f"{name.removesuffix(end)}.weight" in tensors:
            return True
    return False


def _is_tied_tokens(name: str, tensors: Mapping[str, torch.Tensor]) -> bool:
    """With grown embeddings PEFT saves the tokens of a tied head, which are the embeddings', once more."""
    _, found, end = name.partition(".token_adapter.")
    twins = (other for other in tensors if other != name and other.endswith(f".token_adapter.{end}"))
    return bool(found) and any(torch.equal(tensors[name], tensors[other]) for other in twins)


def _check_filled(tensors: dict[str, torch.Tensor], adapter: Path) -> None:
    empty = sorted(name for name, tensor in tensors.items() if tensor.numel() == 0)
    if empty:
        raise BadInput(
            f"{adapter}: tensor {empty[0]} is empty ({len(empty)} such), as DeepSpeed's ZeRO-3 leaves it "
            "when the weights are not gathered before they are saved; save the adapter again with "
            "stage3_gather_16bit_weights_on_model_save"
        )
