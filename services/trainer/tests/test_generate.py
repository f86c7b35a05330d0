"""`hone-trainer generate`: a base's own answers to a file of questions."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_tiny import HUB_NAME, conversation, line, write_lines
from transformers import AutoTokenizer, Qwen2ForCausalLM

from hone_contract.store import Store
from hone_trainer.__main__ import main
from hone_trainer.base import import_base, locate

SYSTEM = ("system", "Be kind.")
ASKED = [
    [("user", "What is the colour of the sky?")],
    [SYSTEM, ("user", "Hi?")],
    [("user", "Hi?"), ("assistant", "Hello."), ("user", "And the grass, what colour is it?")],
]


@pytest.fixture
def written(
    qwen_folder: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """The records that the command wrote."""
    import_base(locate(str(qwen_folder), None, HUB_NAME), store)
    questions = [line(*turns, ("assistant", "left out")) for turns in ASKED]
    questions_file = write_lines(tmp_path / "questions.jsonl", questions)
    output = tmp_path / "answers.jsonl"
    command = ["generate", HUB_NAME, str(questions_file), "--output", str(output), "--max-tokens", "9"]
    monkeypatch.setattr(sys, "argv", ["hone-trainer", "--store", str(store.root), *command])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    return [json.loads(each) for each in output.read_text(encoding="utf-8").split("\n") if each]


def test_each_conversation_ends_in_the_models_own_answer(
    written: list[dict[str, Any]], qwen_folder: Path
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(qwen_folder)
    model: Any = Qwen2ForCausalLM.from_pretrained(qwen_folder).eval()
    assert len(written) == len(ASKED)
    for record, turns in zip(written, ASKED, strict=True):
        messages = conversation(*turns)
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**prompt, max_new_tokens=9, do_sample=False)
        said = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert record == {"messages": [*messages, *conversation(("assistant", said))]}
        assert said
