"""Tied embeddings: the merged model says what the adapter model says, where PEFT's own merge does not.

PEFT adds what is for the embeddings or the head to both (https://github.com/huggingface/peft/issues/2018).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merger_families import ATTENTION, variant_folder
from merger_tiny import adapted, qwen_folder
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hone_merger.fusing.layout import plan_layout
from hone_merger.fusing.shards import share_out, write_shards
from hone_merger.settings import write_config

# Each merges a model.
pytestmark = pytest.mark.chain

IDS = torch.tensor([[1, 60, 7, 120, 33, 200, 2, 9]])
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_folder(tmp_path_factory.mktemp("tied") / "base", torch.float32)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    values: torch.Tensor = model(input_ids=IDS).logits.float()
    return values


def merged(base: Path, adapter: Path, folder: Path) -> Path:
    folder.mkdir()
    layout = plan_layout(base, adapter)
    write_shards(share_out(layout.outputs), folder, lambda _: None)
    write_config(base, folder, dtype=layout.dtype, vocabulary=layout.vocabulary, untied=layout.untied)
    return folder


@pytest.mark.parametrize(
    ("lora", "tied"),
    [
        ({}, True),
        ({"target_modules": [*ATTENTION, "embed_tokens"]}, False),
        ({"target_modules": [*ATTENTION, "lm_head"]}, False),
        ({"target_modules": [*ATTENTION, "lm_head", "embed_tokens"]}, False),
        ({"target_modules": [*ATTENTION, "embed_tokens"], "use_dora": True}, False),
        ({"target_modules": [*ATTENTION, "embed_tokens"], "ensure_weight_tying": True}, True),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"modules_to_save": ["embed_tokens"]}, False),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, False),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({"trainable_token_indices": [1, 2, 9]}, True),
        ({"trainable_token_indices": {"lm_head": [1, 2, 9]}, "ensure_weight_tying": True}, False),
        ({"trainable_token_indices": {"lm_head": [1, 2, 9]}}, False),
    ],
    ids=lambda value: (
        " ".join(f"{key}={each}" for key, each in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_it_says_what_the_adapter_model_says(
    tmp_path: Path, base: Path, lora: dict[str, Any], tied: bool
) -> None:
    adapter = variant_folder(tmp_path / "adapter", base, **lora)
    folder = merged(base, adapter, tmp_path / "merged")
    ours = AutoModelForCausalLM.from_pretrained(folder)
    tuned = logits(adapted(base, adapter))
    torch.testing.assert_close(logits(ours), tuned, atol=1e-4, rtol=1e-4)
    assert (tuned - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.1
    assert (HEAD in load_file(folder / "model.safetensors")) is not tied
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is tied


@pytest.mark.parametrize(
    "lora",
    [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"trainable_token_indices": [1, 2, 305]}],
    ids=["plain", "both ends", "tokens"],
)
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "apart"])
def test_a_vocabulary_that_grew_is_kept(tmp_path: Path, tie: bool, lora: dict[str, Any]) -> None:
    base = qwen_folder(tmp_path / "base", torch.float32, tie_word_embeddings=tie)
    adapter = variant_folder(tmp_path / "adapter", base, rows=310, **lora)
    folder = merged(base, adapter, tmp_path / "merged")
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(310, mean_resizing=False)
    tuned = PeftModel.from_pretrained(model, adapter).eval()
    ours = AutoModelForCausalLM.from_pretrained(folder)
    assert ours.config.vocab_size == 310
    torch.testing.assert_close(logits(ours), logits(tuned), atol=1e-4, rtol=1e-4)


def test_a_head_that_a_tied_base_has_beside_its_embeddings_is_kept(tmp_path: Path, base: Path) -> None:
    """transformers does not tie them then, whatever config.json says."""
    odd = Path(shutil.copytree(base, tmp_path / "base"))
    tensors = load_file(odd / "model.safetensors")
    tensors[HEAD] = torch.randn_like(tensors[EMBEDDINGS]) * 0.2
    save_file(tensors, odd / "model.safetensors", metadata={"format": "pt"})
    adapter = variant_folder(tmp_path / "adapter", odd)
    folder = merged(odd, adapter, tmp_path / "merged")
    ours = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(ours), logits(adapted(odd, adapter)), atol=1e-4, rtol=1e-4)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_head_that_is_the_embeddings_once_more_is_left_out(tmp_path: Path, base: Path) -> None:
    odd = Path(shutil.copytree(base, tmp_path / "base"))
    tensors = load_file(odd / "model.safetensors")
    save_file(
        tensors | {HEAD: tensors[EMBEDDINGS].clone()}, odd / "model.safetensors", metadata={"format": "pt"}
    )
    folder = merged(odd, variant_folder(tmp_path / "adapter", odd), tmp_path / "merged")
    assert HEAD not in load_file(folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
