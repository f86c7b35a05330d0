"""An adapter that does not fit its base, or a base that is not whole, is refused before a byte is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merger_families import family_folder, variant_folder
from merger_tiny import CONFIG, WEIGHTS, edit_json, edit_weights, peft_folder
from safetensors.torch import load_file, save_file

from hone_contract.errors import BadInput
from hone_merger.fusing.layout import ROOM, plan_layout

# Each merges a model.
pytestmark = pytest.mark.chain

PREFIX = "base_model.model.model.layers"
TENSOR = f"{PREFIX}.1.self_attn.q_proj.lora_A.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(plain_adapter: Path, tmp_path: Path) -> Path:
    """An adapter that a test may change."""
    return Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))


@pytest.fixture
def base(qwen: Path, tmp_path: Path) -> Path:
    """The base of that adapter, which a test may change."""
    return Path(shutil.copytree(qwen, tmp_path / "base"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return family_folder(tmp_path / "sharded", "Llama", torch.float32, shard="40KB")


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(BadInput) as caught:
        plan_layout(base, adapter)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


@pytest.mark.parametrize(
    ("lora", "name"),
    [
        ({"modules_to_save": ["norm"]}, "base_model.model.model.norm.weight"),
        (
            {"trainable_token_indices": [1]},
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
        ),
        ({"use_dora": True}, f"{PREFIX}.0.self_attn.q_proj.lora_magnitude_vector"),
        ({"bias": "all"}, f"{PREFIX}.0.self_attn.q_proj.base_layer.bias"),
    ],
    ids=["module", "tokens", "magnitude", "bias"],
)
def test_whatever_is_missing_is_told(tmp_path: Path, qwen: Path, lora: dict[str, Any], name: str) -> None:
    folder = peft_folder(tmp_path / "adapter", qwen, **lora)
    assert name in load_file(folder / WEIGHTS)
    edit_weights(folder, without=[name])
    told = refusal(qwen, folder)
    assert name.removeprefix("base_model.model.") in told


def test_a_tensor_of_another_shape_is_told(folder: Path, qwen: Path) -> None:
    edit_weights(folder, add={TENSOR: torch.zeros(4, 48)})
    told = refusal(qwen, folder)
    assert told.startswith(f"{folder}: does not fit its base: ")
    assert TENSOR.removesuffix(".weight") in told
    assert "[4, 48]" in told


def test_an_empty_tensor_is_told_with_who_leaves_them(folder: Path, qwen: Path) -> None:
    edit_weights(folder, add={TENSOR: torch.zeros(0)})
    told = refusal(qwen, folder)
    assert told.startswith(f"{folder}: tensor {TENSOR} is empty (1 such), as DeepSpeed's ZeRO-3")


def test_another_rank_than_the_configuration_says_is_told(folder: Path, qwen: Path) -> None:
    edit_json(folder / CONFIG, r=8)
    assert "size mismatch for base_model.model.model.layers.0." in refusal(qwen, folder)


def test_layers_that_the_base_lacks_are_told(folder: Path, qwen: Path) -> None:
    edit_json(folder / CONFIG, target_modules=["c_attn"])
    assert "does not fit its base: Target modules {'c_attn'} not found" in refusal(qwen, folder)


def test_an_adapter_of_a_bigger_base_is_told(folder: Path, base: Path) -> None:
    edit_json(base / "config.json", num_hidden_layers=1, layer_types=["full_attention"])
    told = refusal(base, folder)
    assert f"tensor {PREFIX}.1.mlp.down_proj.lora_A.weight has no place in the base (10 such)" in told


def test_a_bias_for_a_layer_that_has_none_is_told(tmp_path: Path, qwen: Path) -> None:
    folder = peft_folder(tmp_path / "adapter", qwen, target_modules=["o_proj"], lora_bias=True)
    assert "lora_bias adds to the bias of model.layers.0.self_attn.o_proj, which has no bias" in refusal(
        qwen, folder
    )


def test_a_trained_token_that_the_base_has_no_row_for_is_told(tmp_path: Path, qwen: Path) -> None:
    folder = peft_folder(tmp_path / "adapter", qwen, trainable_token_indices=[1, 2])
    edit_json(folder / CONFIG, trainable_token_indices=[1, 305])
    told = refusal(qwen, folder)
    assert "token 305 of trainable_token_indices is beyond the rows of model.embed_tokens" in told


# -- the base --------------------------------------------------------------------------------------


def test_a_shard_that_was_cut_off_is_told(tmp_path: Path, sharded: Path) -> None:
    adapter = variant_folder(tmp_path / "adapter", sharded)
    shard = sorted(sharded.glob("model-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    assert f"{shard} cannot be read as safetensors" in refusal(sharded, adapter)


def test_a_shard_that_is_missing_is_told(tmp_path: Path, sharded: Path) -> None:
    adapter = variant_folder(tmp_path / "adapter", sharded)
    shard = sorted(sharded.glob("model-*"))[1]
    shard.unlink()
    assert f"{shard} cannot be read as safetensors" in refusal(sharded, adapter)


def test_a_tensor_that_the_index_only_promises_is_told(tmp_path: Path, sharded: Path) -> None:
    adapter = variant_folder(tmp_path / "adapter", sharded)
    index = json.loads((sharded / INDEX).read_text())
    shard = sorted(sharded.glob("model-*"))[0].name
    index["weight_map"]["model.norm.weight"] = shard
    (sharded / INDEX).write_text(json.dumps(index))
    assert f"{shard} lacks tensor model.norm.weight" in refusal(sharded, adapter)


def test_an_index_that_names_a_file_elsewhere_is_told(tmp_path: Path, sharded: Path) -> None:
    adapter = variant_folder(tmp_path / "adapter", sharded)
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "../model.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    assert "names a shard outside its folder: '../model.safetensors'" in refusal(sharded, adapter)


def test_a_parameter_that_the_base_lacks_is_told(folder: Path, base: Path) -> None:
    tensors = load_file(base / SINGLE)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / SINGLE)
    assert f"{base} lacks model.layers.1.mlp.up_proj.weight (1 such)" in refusal(base, folder)


def test_a_parameter_of_another_shape_than_the_configuration_says_is_told(folder: Path, base: Path) -> None:
    tensors = load_file(base / SINGLE)
    save_file(tensors | {"model.norm.weight": torch.ones(48)}, base / SINGLE)
    assert "model.norm.weight has the shape (48,), and by the base's config.json it is (32,)" in refusal(
        base, folder
    )


def test_quantised_weights_are_told(folder: Path, base: Path) -> None:
    tensors = load_file(base / SINGLE)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, base / SINGLE)
    assert f"tensor {name} is stored as F8_E4M3, which cannot be merged" in refusal(base, folder)


# -- what is taken ---------------------------------------------------------------------------------


def test_a_shard_that_the_index_does_not_name_is_passed_over(tmp_path: Path, sharded: Path) -> None:
    adapter = variant_folder(tmp_path / "adapter", sharded)
    save_file({"model.norm.weight": torch.zeros(3)}, sharded / "model-stale.safetensors")
    before = [output.name for output in plan_layout(sharded, adapter).outputs]
    assert before.count("model.norm.weight") == 1


def test_a_tensor_that_is_no_parameter_is_copied(folder: Path, base: Path) -> None:
    tensors = load_file(base / SINGLE)
    save_file(tensors | {"model.layers.2.extra.weight": torch.arange(4.0)}, base / SINGLE)
    outputs = {output.name: output for output in plan_layout(base, folder).outputs}
    [part] = outputs["model.layers.2.extra.weight"].parts
    assert torch.equal(part(torch.empty(ROOM, dtype=torch.uint8)), torch.arange(4.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_another_number_format_is_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    base = family_folder(tmp_path / "base", "Mistral", torch.bfloat16)
    adapter = variant_folder(tmp_path / "adapter", base)
    before, lora = load_file(base / SINGLE), load_file(adapter / WEIGHTS)
    for output in plan_layout(base, adapter, dtype).outputs:
        made = torch.cat(
            [part(torch.empty(ROOM, dtype=torch.uint8)).reshape(-1) for part in output.parts]
        ).reshape(output.shape)
        exact = before[output.name].float()
        layer = f"base_model.model.{output.name.removesuffix('.weight')}"
        if f"{layer}.lora_A.weight" in lora:
            exact = exact + lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"] * 2
        assert torch.equal(made, exact.to(dtype))
