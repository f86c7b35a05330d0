"""Loads models: a base in the number format of its method, and what a run made of it."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from hone_contract.artifact import Artifact
from hone_contract.run_spec import Method, TrainingSpec
from hone_trainer.sizing.shapes import read_shapes

# Of a GPU's free memory, for weights; what they compute needs the rest.
_USABLE = 0.8


def quiet() -> None:
    """The bars and warnings of transformers would stand between our lines."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def free_memory() -> None:
    """Of a model that was let go. glibc keeps what was freed, and reading another would come on top."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def pick_dtype(training: TrainingSpec) -> torch.dtype:
    """The number format of the forward pass: as asked, or the best that the hardware has."""
    if training.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            training.dtype
        ]
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def device() -> torch.device:
    """Where this process computes: its own GPU, or the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def load_base(
    folder: Path,
    dtype: torch.dtype,
    *,
    method: Method = "lora",
    attention: str | None = None,
    on: torch.device | None = None,
) -> Any:
    """A causal language model on this process's device, or the one named, in evaluation mode.

    With `qlora` its linear layers but the output head are in 4 bits (NF4 with double quantisation,
    https://arxiv.org/abs/2305.14314); what they compute is in `dtype`. Without `attention` it is the one that
    Transformers takes for the architecture.
    """
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=quantised if method == "qlora" else None,
        device_map={"": on or device()},
        attn_implementation=attention,
        use_safetensors=True,
    ).eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On some CPUs bitsandbytes repacks weights that are not being trained, for a kernel that rounds
            # to bfloat16: evaluation would not see what training does.
            module.support_avx512bf16_for_cpu = False
    return model


def load_tuned(tuned: Artifact, base: Path, dtype: torch.dtype) -> Any:
    """What a run made, of kind adapter or weights, with the base as it is in the store, never in 4 bits."""
    if tuned.manifest.kind == "weights":
        return load_base(tuned.path, dtype)
    return PeftModel.from_pretrained(load_base(base, dtype), tuned.path).eval()


def load_trained(adapter: Path, base: Path, dtype: torch.dtype) -> Any:
    """The adapter model with its base in 4 bits, as it was while QLoRA trained it."""
    return PeftModel.from_pretrained(load_base(base, dtype, method="qlora"), adapter).eval()


@dataclass(frozen=True)
class Pair:
    """What a run made, beside what it was made from. An adapter's base is the same model without it."""

    tuned: Any
    as_base: Callable[[], AbstractContextManager[Any]]
    """Within it, the base."""


def open_pair(tuned: Path, base: Path, dtype: torch.dtype) -> Pair:
    """From a folder with an adapter or with whole weights, sealed or about to be."""
    by_adapter = (tuned / "adapter_config.json").is_file()
    on = _roomy(base, dtype, 1 if by_adapter else 2)
    if by_adapter:
        model = PeftModel.from_pretrained(load_base(base, dtype, on=on), tuned).eval()
        return Pair(model, partial(_without_adapter, model))
    return Pair(load_base(tuned, dtype, on=on), partial(_loaded, base, dtype, on))


def _roomy(base: Path, dtype: torch.dtype, models: int) -> torch.device:
    """This process's GPU, or the CPU for what several GPUs shared while it was trained."""
    if not torch.cuda.is_available():
        return device()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device())
    takes = models * read_shapes(base).parameters * dtype.itemsize
    return device() if takes < _USABLE * free else torch.device("cpu")


@contextmanager
def _without_adapter(model: PeftModel) -> Iterator[PeftModel]:
    with model.disable_adapter():
        yield model


@contextmanager
def _loaded(base: Path, dtype: torch.dtype, on: torch.device) -> Iterator[Any]:
    yield load_base(base, dtype, on=on)
