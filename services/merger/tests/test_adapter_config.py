"""What cannot be merged exactly is refused before anything is loaded."""

import shutil
from pathlib import Path

import pytest
from merger_tiny import CONFIG, WEIGHTS, edit_json

from hone_contract.errors import BadInput
from hone_merger.adapter_config import check_adapter


@pytest.fixture
def folder(plain_adapter: Path, tmp_path: Path) -> Path:
    """An adapter that a test may change."""
    return Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        check_adapter(folder)
    return str(caught.value)


def test_a_lora_adapter_is_taken(folder: Path) -> None:
    check_adapter(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (CONFIG, f"is no PEFT adapter: there is no {CONFIG}"),
        (WEIGHTS, f"has no {WEIGHTS}; save the adapter again with safe_serialization=True"),
    ],
)
def test_a_missing_file_is_told(folder: Path, name: str, told: str) -> None:
    (folder / name).rename(folder / "adapter_model.bin")
    assert refusal(folder) == f"{folder} {told}"


@pytest.mark.parametrize(
    ("content", "told"), [("{", "is not JSON"), ("[]", "is no JSON object"), ("", "is not JSON")]
)
def test_an_unreadable_configuration_is_told(folder: Path, content: str, told: str) -> None:
    (folder / CONFIG).write_text(content, encoding="utf-8")
    assert refusal(folder).startswith(f"{folder / CONFIG} {told}")


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"]
)
def test_weights_that_are_no_safetensors_are_told(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert refusal(folder).startswith(f"{folder / WEIGHTS} cannot be read as safetensors: ")


def test_weights_that_were_cut_off_are_told(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
    assert "cannot be read as safetensors" in refusal(folder)


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
        ({"init_lora_weights": "mica"}, "is a MiCA adapter"),
        ({"alora_invocation_tokens": [1, 2]}, "is an activated LoRA"),
        ({"arrow_config": {"top_k": 3}}, "is an Arrow router"),
        ({"use_qalora": True}, "is a QALoRA adapter"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "repeats layers of its base"),
    ],
)
def test_what_is_no_plain_difference_to_the_base_is_refused(
    folder: Path, values: dict[str, object], told: str
) -> None:
    edit_json(folder / CONFIG, **values)
    assert refusal(folder).startswith(f"{folder}: {told}")


@pytest.mark.parametrize("initialised", [True, False, "gaussian", "eva", "orthogonal"])
def test_an_initialisation_that_leaves_the_base_alone_is_taken(folder: Path, initialised: object) -> None:
    edit_json(folder / CONFIG, init_lora_weights=initialised)
    check_adapter(folder)
