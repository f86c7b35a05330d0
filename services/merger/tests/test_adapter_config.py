"""What cannot be merged exactly is refused before anything is loaded."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from merger_tiny import CONFIG, WEIGHTS, edit_json, peft_folder

from hone_contract.errors import BadInput
from hone_merger.adapter_config import check_adapter

# PEFT says so too when such an adapter is made.
WARNED = "ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning"
TIED = "adapts {}, but this base ties its input and output embeddings"


@pytest.fixture
def folder(plain_adapter: Path, tmp_path: Path) -> Path:
    """An adapter that a test may change."""
    return Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))


def refusal(folder: Path, base: Path) -> str:
    with pytest.raises(BadInput) as caught:
        check_adapter(folder, base)
    return str(caught.value)


def test_a_lora_adapter_is_taken(folder: Path, qwen: Path) -> None:
    check_adapter(folder, qwen)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (CONFIG, f"is no PEFT adapter: there is no {CONFIG}"),
        (WEIGHTS, f"has no {WEIGHTS}; save the adapter again with safe_serialization=True"),
    ],
)
def test_a_missing_file_is_told(folder: Path, qwen: Path, name: str, told: str) -> None:
    (folder / name).rename(folder / "adapter_model.bin")
    assert refusal(folder, qwen) == f"{folder} {told}"


@pytest.mark.parametrize(
    ("content", "told"), [("{", "is not JSON"), ("[]", "is no JSON object"), ("", "is not JSON")]
)
def test_an_unreadable_configuration_is_told(folder: Path, qwen: Path, content: str, told: str) -> None:
    (folder / CONFIG).write_text(content, encoding="utf-8")
    assert refusal(folder, qwen).startswith(f"{folder / CONFIG} {told}")


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"]
)
def test_weights_that_are_no_safetensors_are_told(folder: Path, qwen: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert refusal(folder, qwen).startswith(f"{folder / WEIGHTS} cannot be read as safetensors: ")


def test_weights_that_were_cut_off_are_told(folder: Path, qwen: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
    assert "cannot be read as safetensors" in refusal(folder, qwen)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter; only LoRA adapters can be merged"),
        ({"peft_type": None}, "is a None adapter; only LoRA adapters can be merged"),
        ({"init_lora_weights": "pissa"}, "was initialised by pissa, which changes the base"),
        ({"init_lora_weights": "pissa_niter_16"}, "was initialised by pissa_niter_16, which changes"),
        ({"init_lora_weights": "olora"}, "was initialised by olora, which changes the base"),
        ({"init_lora_weights": "CorDA"}, "was initialised by CorDA, which changes the base"),
        ({"init_lora_weights": "loftq"}, "was initialised by loftq, which changes the base"),
        ({"init_lora_weights": "lora_ga"}, "was initialised by lora_ga, which changes the base"),
        ({"alora_invocation_tokens": [1, 2]}, "is an activated LoRA"),
    ],
)
def test_what_is_no_plain_difference_to_the_base_is_refused(
    folder: Path, qwen: Path, values: dict[str, object], told: str
) -> None:
    edit_json(folder / CONFIG, **values)
    assert refusal(folder, qwen).startswith(f"{folder}: {told}")


@pytest.mark.parametrize("initialised", [True, False, "gaussian", "eva", "orthogonal"])
def test_an_initialisation_that_leaves_the_base_alone_is_taken(
    folder: Path, qwen: Path, initialised: object
) -> None:
    edit_json(folder / CONFIG, init_lora_weights=initialised)
    check_adapter(folder, qwen)


# -- tied embeddings -------------------------------------------------------------------------------


@pytest.mark.filterwarnings(WARNED)
@pytest.mark.parametrize(
    ("lora", "name"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": r".*\.(q_proj|embed_tokens)"}, "embed_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["model.embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["head"]}, "lm_head"),
    ],
    ids=["input", "output", "pattern", "whole head", "whole input", "end of a name"],
)
def test_tied_embeddings_cannot_be_adapted(
    tmp_path: Path, qwen: Path, lora: dict[str, Any], name: str
) -> None:
    folder = peft_folder(tmp_path / "adapter", qwen, **lora)
    assert refusal(folder, qwen).startswith(f"{folder}: {TIED.format(name)}")


@pytest.mark.filterwarnings(WARNED)
def test_a_base_that_does_not_say_whether_it_is_tied_counts_as_tied(tmp_path: Path, qwen: Path) -> None:
    folder = peft_folder(tmp_path / "adapter", qwen, target_modules=["embed_tokens"])
    silent = Path(shutil.copytree(qwen, tmp_path / "silent"))
    edit_json(silent / "config.json", tie_word_embeddings=None)
    assert TIED.format("embed_tokens") in refusal(folder, silent)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_embeddings_that_are_not_tied_may_be_adapted(tmp_path: Path, llama: Path, target: str) -> None:
    check_adapter(peft_folder(tmp_path / "adapter", llama, target_modules=["q_proj", target]), llama)


def test_other_layers_of_a_tied_base_may_be_trained_whole(tmp_path: Path, qwen: Path) -> None:
    check_adapter(peft_folder(tmp_path / "adapter", qwen, modules_to_save=["norm"]), qwen)


def test_single_tokens_of_tied_embeddings_may_be_trained(tmp_path: Path, qwen: Path) -> None:
    lora = {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}
    check_adapter(peft_folder(tmp_path / "adapter", qwen, **lora), qwen)
