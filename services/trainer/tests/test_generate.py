"""`hone-trainer generate`: a base's own answers to a file of questions."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_tiny import conversation, line, save_base, tiny_llama, write_lines
from transformers import PreTrainedTokenizerFast

from hone_contract.store import Store
from hone_trainer.__main__ import main
from hone_trainer.base import import_base, locate

TOKENS = 9
ASKED = [
    [("user", "What is the colour of the sky?")],
    [("system", "Be kind."), ("user", "Hi?")],
    [("user", "Hi?"), ("assistant", "Hello."), ("user", "And the grass, what colour is it?")],
]


@torch.inference_mode()
def say(model: Any, tokenizer: Any, turns: list[tuple[str, str]]) -> list[int]:
    """One answer, by itself."""
    prompt = tokenizer.apply_chat_template(
        conversation(*turns), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=TOKENS, do_sample=False)
    said: list[int] = output[0, prompt["input_ids"].shape[1] :].tolist()
    return said


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Ends its first answer early: where it would have said something else, its end token is likelier."""
    model = tiny_llama(len(tokenizer))
    head = model.lm_head.weight.data
    head[tokenizer.eos_token_id] = 1.5 * head[say(model, tokenizer, ASKED[0])[4]]
    return model


@pytest.fixture
def written(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[dict[str, Any]]:
    """The records that the command wrote."""
    import_base(locate(str(save_base(tmp_path / "tiny", model, tokenizer)), None), store)
    questions = [line(*turns, ("assistant", "left out")) for turns in ASKED]
    write_lines(tmp_path / "questions.jsonl", questions)
    command = [
        "generate",
        "tiny",
        "questions.jsonl",
        "--output",
        "answers.jsonl",
        "--max-tokens",
        str(TOKENS),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hone-trainer", *command])
    monkeypatch.delenv("HONE_STORE", raising=False)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    return [
        json.loads(each) for each in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_each_conversation_ends_in_the_models_own_answer(
    written: list[dict[str, Any]], model: Any, tokenizer: Any
) -> None:
    answers = [say(model, tokenizer, turns) for turns in ASKED]
    assert len(answers[0]) < TOKENS
    assert answers[0][-1] == tokenizer.eos_token_id
    expected = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    assert written == [
        {"messages": conversation(*turns, ("assistant", answer))}
        for turns, answer in zip(ASKED, expected, strict=True)
    ]
