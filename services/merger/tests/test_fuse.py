"""The fused weights are PEFT's, and an adapter that does not fit its base is refused by the tensor."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merger_tiny import CONFIG, WEIGHTS, adapted, edit_json, edit_weights, peft_folder
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hone_contract.errors import BadInput
from hone_merger.adapter_config import check_adapter
from hone_merger.fuse import attach, fuse, load_model

PREFIX = "base_model.model.model.layers"
TENSOR = f"{PREFIX}.1.self_attn.q_proj.lora_A.weight"
IDS = torch.tensor([[5, 60, 7, 120, 33, 200, 9]])


@pytest.fixture
def folder(plain_adapter: Path, tmp_path: Path) -> Path:
    """An adapter that a test may change."""
    return Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(BadInput) as caught:
        attach(load_model(base, "auto"), adapter)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    values: torch.Tensor = model(input_ids=IDS).logits.float()
    return values


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 32}},
        {"target_modules": "all-linear"},
        {"trainable_token_indices": [1, 2]},
        {"layers_to_transform": [1]},
    ],
    ids=["plain", "rank-stabilised", "DoRA", "patterns", "all-linear", "tokens", "one layer"],
)
@pytest.mark.parametrize("name", ["qwen", "llama"])
def test_fused_weights_are_those_that_peft_makes(
    tmp_path: Path, name: str, lora: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(name)
    adapter = peft_folder(tmp_path / "adapter", base, **lora)
    ours = fuse(base, adapter).state_dict()
    theirs = adapted(base, adapter).merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["qwen", "llama"])
def test_fused_weights_are_the_sum_in_float32_rounded_once(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(name)
    adapter = peft_folder(tmp_path / "adapter", base)
    before = load_file(base / "model.safetensors")
    lora = load_file(adapter / WEIGHTS)
    fused = fuse(base, adapter).state_dict()
    scale = 8 / 4
    for key, weights in before.items():
        layer = key.removesuffix(".weight")
        down = lora.get(f"base_model.model.{layer}.lora_A.weight")
        assert fused[key].dtype == weights.dtype
        if down is None:
            assert torch.equal(fused[key], weights)
        else:
            up = lora[f"base_model.model.{layer}.lora_B.weight"]
            assert torch.equal(fused[key], (weights.float() + up @ down * scale).to(weights.dtype))
            assert not torch.equal(fused[key], weights)


# -- what PEFT's adapter model says ------------------------------------------------------------------

PATTERNS: dict[str, Any] = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8},
    "alpha_pattern": {"up_proj": 32, "v_proj": 3},
}
BOTH_ENDS = ["lm_head", "embed_tokens"]
VARIANTS = {
    "plain": {},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 3},
    "DoRA": {"use_dora": True},
    "patterns": PATTERNS,
    "rsLoRA, patterns": {"use_rslora": True, **PATTERNS},
    "DoRA, rsLoRA, patterns": {"use_dora": True, "use_rslora": True, **PATTERNS},
    "norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "both ends": {"modules_to_save": BOTH_ENDS},
    "everything": {"modules_to_save": BOTH_ENDS, "use_dora": True, "use_rslora": True, **PATTERNS},
}
# The others train embeddings, which a tied base does not allow.
TIED = [name for name, lora in VARIANTS.items() if lora.get("modules_to_save") != BOTH_ENDS]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fused_model_says_what_the_adapter_model_says(tmp_path: Path, llama: Path, variant: str) -> None:
    adapter = peft_folder(tmp_path / "adapter", llama, **VARIANTS[variant])
    fused, tuned = logits(fuse(llama, adapter)), logits(adapted(llama, adapter))
    base = logits(AutoModelForCausalLM.from_pretrained(llama))
    torch.testing.assert_close(fused, tuned, atol=1e-4, rtol=1e-4)
    assert (fused - base).abs().max() > 1


@pytest.mark.parametrize("variant", TIED)
def test_a_bfloat16_base_says_the_same_but_for_one_rounding(tmp_path: Path, qwen: Path, variant: str) -> None:
    adapter = peft_folder(tmp_path / "adapter", qwen, **VARIANTS[variant])
    fused = fuse(qwen, adapter)
    assert {weights.dtype for weights in fused.state_dict().values()} == {torch.bfloat16}
    tuned = logits(adapted(qwen, adapter, torch.float32))
    base = logits(AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32))
    assert (logits(fused.float()) - tuned).abs().max() < 0.1 < 1 < (tuned - base).abs().max()


@pytest.mark.parametrize("lora", [{}, {"modules_to_save": BOTH_ENDS}], ids=["plain", "both ends"])
def test_an_adapter_in_bfloat16_is_fused_in_float32(
    tmp_path: Path, llama: Path, lora: dict[str, Any]
) -> None:
    """As training on a base in 4 bits writes it; the base in the store is whole."""
    adapter = peft_folder(tmp_path / "adapter", llama, **lora)
    halved = {name: weights.bfloat16() for name, weights in load_file(adapter / WEIGHTS).items()}
    edit_weights(adapter, without=halved, add=halved)
    check_adapter(adapter, llama)
    fused = fuse(llama, adapter)
    assert {weights.dtype for weights in fused.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(logits(fused), logits(adapted(llama, adapter)), atol=1e-4, rtol=1e-4)


# -- what does not fit -----------------------------------------------------------------------------


def test_a_tensor_without_a_place_is_told(folder: Path, qwen: Path) -> None:
    extra = f"{PREFIX}.7.self_attn.q_proj.lora_A.weight"
    edit_weights(folder, add={extra: torch.zeros(4, 32)})
    assert refusal(qwen, folder) == (
        f"{folder}: tensor {extra} has no place in the base (1 such); nothing was merged"
    )


def test_a_tensor_that_is_missing_is_told(folder: Path, qwen: Path) -> None:
    edit_weights(folder, without=[TENSOR])
    assert refusal(qwen, folder) == (
        f"{folder}: tensor {TENSOR} is missing from the adapter (1 such); nothing was merged"
    )


def test_a_tensor_of_another_shape_is_told(folder: Path, qwen: Path) -> None:
    edit_weights(folder, add={TENSOR: torch.zeros(4, 48)})
    told = refusal(qwen, folder)
    assert told.startswith(f"{folder}: does not fit its base: ")
    assert TENSOR.removesuffix(".weight") in told
    assert "[4, 48]" in told


def test_another_rank_than_the_configuration_says_is_told(folder: Path, qwen: Path) -> None:
    edit_json(folder / CONFIG, r=8)
    assert "size mismatch for base_model.model.model.layers.0." in refusal(qwen, folder)


def test_layers_that_the_base_lacks_are_told(folder: Path, qwen: Path) -> None:
    edit_json(folder / CONFIG, target_modules=["c_attn"])
    assert "does not fit its base: Target modules {'c_attn'} not found" in refusal(qwen, folder)


def test_an_adapter_of_a_bigger_base_is_told(tmp_path: Path, folder: Path, qwen: Path) -> None:
    small = Path(shutil.copytree(qwen, tmp_path / "small"))
    edit_json(small / "config.json", num_hidden_layers=1, layer_types=["full_attention"])
    told = refusal(small, folder)
    assert f"tensor {PREFIX}.1.mlp.down_proj.lora_A.weight has no place in the base (10 such)" in told
