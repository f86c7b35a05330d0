"""A model that is never loaded says what it says when it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from merger_families import FAMILIES, family_folder
from merger_tiny import logprobs
from transformers import AutoModelForCausalLM

from hone_merger.streaming import score_all, streamed

TEXTS = [([5, 60, 7, 120], [33, 200, 9]), ([1], [2, 3]), ([8, 8, 250, 11, 12, 13, 14], [90])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_the_loaded_model_says(
    tmp_path: Path, family: str, tied: bool, dtype: torch.dtype
) -> None:
    folder = family_folder(tmp_path / "model", family, dtype, shard="40KB", tie_word_embeddings=tied)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = streamed(folder)
    for said, (prompt, answer) in zip(score_all(model, TEXTS), TEXTS, strict=True):
        assert said == pytest.approx(logprobs(loaded, prompt, answer), abs=1e-4)
    assert {weights.device.type for weights in model.parameters()} == {"meta"}


def test_after_a_text_that_fails_it_can_be_asked_again(tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", "Qwen3-MoE", torch.float32)
    model = streamed(folder)
    expected = score_all(model, TEXTS)
    with pytest.raises(IndexError):
        score_all(model, [([10**6], [1])])
    assert {weights.device.type for weights in model.parameters()} == {"meta"}
    assert score_all(model, TEXTS) == expected
