"""`hone-trainer generate`: a model's own answers, to a file of questions or to one that is asked here."""

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from trainer_sealed import RUN, merge, sealed_run
from trainer_tiny import conversation, line, questions, save_base, tiny_llama, write_lines
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from hone_contract.store import Store
from hone_trainer.__main__ import main
from hone_trainer.answering.answers import Streamer, last_question, prompt_of
from hone_trainer.answering.lookup import Found
from hone_trainer.answering.prompts import draw_record
from hone_trainer.base import import_base, locate
from hone_trainer.record import Record

pytestmark = pytest.mark.chain

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
    write_lines(tmp_path / "questions.jsonl", [line(*turns, ("assistant", "left out")) for turns in ASKED])
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


# -- one question, here ----------------------------------------------------------------------------


def command(folder: Path, *options: str) -> int:
    """`hone-trainer generate` in this process; its exit code."""
    arguments = ["hone-trainer", "--store", str(folder / "store"), "generate", *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as left:
            main()
    return int(left.value.code or 0)


@pytest.fixture
def run(tmp_path: Path, llama_folder: Path) -> Found:
    return sealed_run(tmp_path, llama_folder, questions(24))


@pytest.fixture
def said_by(run: Found, tokenizer: Any) -> dict[str, str]:
    """Base's and adapter's own answers to the first question, by other means."""
    base = AutoModelForCausalLM.from_pretrained(run.base.path).eval()
    said = {"base": tokenizer.decode(say(base, tokenizer, ASKED[0]), skip_special_tokens=True)}
    tuned = PeftModel.from_pretrained(base, run.artifact.path).eval()
    return said | {"tuned": tokenizer.decode(say(tuned, tokenizer, ASKED[0]), skip_special_tokens=True)}


QUESTION = ["--prompt", ASKED[0][0][1], "--max-tokens", str(TOKENS)]


def test_an_answer_alone_goes_to_standard_output(
    said_by: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, RUN, *QUESTION) == 0
    out, err = capsys.readouterr()
    assert out == said_by["tuned"] + "\n"
    assert f'"message":"tuned: {TOKENS} tokens, ' in err
    assert command(tmp_path, "tiny-llama", *QUESTION) == 0
    assert capsys.readouterr().out == said_by["base"] + "\n"


def test_base_and_tuned_answer_side_by_side(
    said_by: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, RUN, *QUESTION, "--compare") == 0
    assert capsys.readouterr().out == f"── base\n{said_by['base']}\n── tuned\n{said_by['tuned']}\n"


def test_a_merged_model_answers_as_its_adapter_does(
    run: Found, said_by: dict[str, str], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge(run, store)
    assert command(tmp_path, "models/sky", *QUESTION, "--compare") == 0
    assert capsys.readouterr().out == f"── base\n{said_by['base']}\n── merged\n{said_by['tuned']}\n"


@pytest.mark.usefixtures("run")
def test_the_same_seed_draws_the_same_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def drawn(seed: str) -> str:
        guide = "--temperature 0.8 --top-p 0.9 --repetition-penalty 1.3 --no-repeat-ngram-size 3 --top-k 90"
        assert command(tmp_path, RUN, *QUESTION, *guide.split(), "--seed", seed) == 0
        return capsys.readouterr().out

    first = drawn("3407")
    assert drawn("3407") == first
    assert any(drawn(str(seed)) != first for seed in range(3))


def test_a_random_record_is_shown_with_the_answer_that_is_expected(
    run: Found, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = draw_record(run, store, 5).record
    assert command(tmp_path, RUN, "--random", "--seed", "5", "--compare", "--max-tokens", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    asked = record.messages[0]["content"]
    shown = [f"── {record.source} (--seed 5)", f"user: {asked}", "── expected", "The sky is blue.", "── base"]
    assert lines[:5] == shown
    assert "── tuned" in lines


@pytest.mark.usefixtures("run")
def test_a_file_may_hold_both_answers(said_by: dict[str, str], tmp_path: Path) -> None:
    write_lines(tmp_path / "prompts.txt", [ASKED[0][0][1], "Hi?"])
    options = ["--output", str(tmp_path / "both.jsonl"), "--compare", "--max-tokens", str(TOKENS)]
    assert command(tmp_path, RUN, str(tmp_path / "prompts.txt"), *options, "--system", "") == 0
    options[1] = str(tmp_path / "plain.jsonl")
    assert command(tmp_path, RUN, str(tmp_path / "prompts.txt"), *options) == 0
    first, second = map(json.loads, (tmp_path / "plain.jsonl").read_text(encoding="utf-8").splitlines())
    assert first == {
        "messages": conversation(*ASKED[0], ("assistant", said_by["tuned"])),
        "answers": said_by,
    }
    assert second["messages"][0]["content"] == "Hi?"
    system = json.loads((tmp_path / "both.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert [message["role"] for message in system["messages"]] == ["system", "user", "assistant"]


WITH_TOOLS = "{{ tools | tojson }}"
TOOLS = [{"type": "function", "function": {"name": "sky", "description": "Colour.", "parameters": {}}}]


def test_tools_of_a_record_reach_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    template = tokenizer.chat_template
    record = Record(conversation(*ASKED[0], ("assistant", "")), "here", tools=TOOLS)
    try:
        tokenizer.chat_template = WITH_TOOLS + str(template)
        prompt = prompt_of(tokenizer, record)
    finally:
        tokenizer.chat_template = template
    assert tokenizer.decode(prompt).startswith('[{"type": "function", "function": {"name": "sky"')
    assert tokenizer.decode(prompt_of(tokenizer, record)).startswith("<|im_start|>user\n")


def test_an_answer_that_calls_a_tool_is_expected_as_the_template_writes_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    template = tokenizer.chat_template
    call = {"id": "1", "type": "function", "function": {"name": "sky", "arguments": '{"day": 1}'}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    record = Record([*conversation(*ASKED[0]), answer], "here", tools=TOOLS)
    try:
        tokenizer.chat_template = WITH_TOOLS + str(template).replace(
            "message['content']",
            "(message.tool_calls[0].function | tojson if message.tool_calls else message['content'])",
        )
        asked = last_question(tokenizer, record)
    finally:
        tokenizer.chat_template = template
    assert asked is not None
    assert asked.expected == '{"arguments": {"day": 1}, "name": "sky"}'
    assert tokenizer.decode(asked.prompt).endswith("<|im_start|>assistant\n")


def test_the_last_answer_that_is_learned_is_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = conversation(*ASKED[0], ("assistant", " Blue. "), ("user", "Sure?"), ("assistant", "No."))
    record = Record([*turns[:-1], {**turns[-1], "weight": 0}], "here")
    asked = last_question(tokenizer, record)
    assert asked is not None
    assert asked.expected == "Blue."
    assert "Sure?" not in tokenizer.decode(asked.prompt)


def test_what_a_model_says_does_not_command_a_terminal(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    out, escape = Terminal(), tokenizer("\x1b[2J", add_special_tokens=False)["input_ids"]
    streamer = Streamer(tokenizer, out)
    for tokens in ([1, 5], *[[token] for token in escape]):
        streamer.put(torch.tensor(tokens))
    streamer.end()
    assert out.getvalue() == "␛[2J\n"


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([RUN], "nothing to ask: give a file, --prompt or --random"),
        ([RUN, "--prompt", "Hi", "--random"], "not allowed with argument --prompt"),
        (["tiny-llama", "--prompt", "Hi", "--compare"], "--compare: 'tiny-llama' is a base itself"),
        (["tiny-llama", "--random"], "'tiny-llama' is a base, which no run made"),
        ([RUN, "--prompt", "Hi", "--top-p", "0.9"], "at temperature 0 none is; set a temperature"),
        ([RUN, "--prompt", "Hi", "--temperature", "9"], "temperature must be from 0 to 2, not 9"),
        ([RUN, "--random", "--system", "Hi"], "leave --system out"),
        (["none", "--prompt", "Hi"], "no base at store/bases/none, and no such run"),
        (["models/none", "--prompt", "Hi"], "no version of models/none is live"),
        ([RUN, "--prompt", "Hi", "--output", "none/out"], "--output: there is no folder none"),
    ],
)
def test_a_mistake_is_told_before_a_model_is_loaded(
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert command(Path(), *options) == 78
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
