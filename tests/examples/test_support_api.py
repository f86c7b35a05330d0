"""The support bot's training set: well formed, of many forms, and true of the API that it speaks of."""

import json
import re
from difflib import SequenceMatcher
from typing import Any

import pytest
import yaml

from hone_contract.spec_file import load_run_spec
from tests.examples.product import ROOT

FOLDER = ROOT / "examples" / "support-api"
Record = dict[str, Any]


def _read(name: str) -> list[Record]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


FUNCTIONS = yaml.safe_load((FOLDER / "api.yaml").read_text(encoding="utf-8"))
PARAMETERS: dict[str, dict[str, str]] = {each["name"]: each["parameters"] for each in FUNCTIONS}
TRAIN, HELD_OUT = _read("train.jsonl"), _read("held_out.jsonl")

GUIDE = {
    "messages": [
        {"role": "user", "content": "如何查询用户余额？"},
        {"role": "assistant", "content": "请调用 getUserBalance(userId) 接口。"},
    ]
}
TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float)}
KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "weight"},
    "tool": {"role", "content", "tool_call_id"},
}
# One letter a message; c is an assistant that calls functions, t the result of one call.
ORDER = re.compile(r"s?(u(ct+)*a)+")
# re.ASCII, because a Chinese character is a \w and may stand right before a name.
CALLED = re.compile(r"\b(\w+)\(([^)]*)\)", re.ASCII)
CAMEL_CASE = re.compile(r"\b[a-z]+(?:[A-Z][a-z]*)+\b", re.ASCII)
NONE_SUCH = re.compile(
    r"没有.*的接口|没有这样的接口|\bno (such )?interface\b|\bNo such interface\b|\bno export\b"
)

each_file = pytest.mark.parametrize("records", [TRAIN, HELD_OUT], ids=["train", "held-out"])


# -- the API ---------------------------------------------------------------------------------------


def test_the_api_has_about_thirty_functions_each_named_once() -> None:
    assert len(FUNCTIONS) == len(PARAMETERS)
    assert 25 <= len(FUNCTIONS) <= 35


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function["name"])
def test_a_function_has_typed_parameters_and_one_line_in_each_language(function: dict[str, Any]) -> None:
    assert function.keys() == {"name", "parameters", "zh", "en"}
    assert CAMEL_CASE.fullmatch(function["name"])
    assert function["parameters"] and set(function["parameters"].values()) <= TYPES.keys()
    assert _is_chinese(function["zh"]) and function["zh"].endswith("。")
    assert not _is_chinese(function["en"]) and function["en"].endswith(".")
    assert "\n" not in function["zh"] + function["en"]


# -- the mix ---------------------------------------------------------------------------------------


def test_there_are_enough_records() -> None:
    assert len(TRAIN) >= 90
    assert len(HELD_OUT) == 15


def test_the_guides_own_record_is_among_them() -> None:
    assert GUIDE in TRAIN


@each_file
def test_about_half_the_records_are_chinese(records: list[Record]) -> None:
    chinese = sum(_is_chinese(_questions(record)[0]) for record in records)
    assert 0.4 <= chinese / len(records) <= 0.6


@each_file
def test_an_answer_is_in_the_language_of_its_question(records: list[Record]) -> None:
    for record in records:
        languages = {_is_chinese(text) for text in [*_questions(record), *_answers(record)]}
        assert len(languages) == 1


def test_every_form_is_shown() -> None:
    turns = [len(_questions(record)) for record in TRAIN]
    assert turns.count(1) > len(TRAIN) / 2
    assert sum(count > 1 for count in turns) >= 12
    assert sum(record["messages"][0]["role"] == "system" for record in TRAIN) >= 12
    assert sum(bool(_calls(record)) for record in TRAIN) >= 6
    assert sum(any(message.get("weight") == 0 for message in record["messages"]) for record in TRAIN) >= 4


@pytest.mark.parametrize("chinese", [True, False], ids=["chinese", "english"])
def test_every_function_is_taught_in_each_language(chinese: bool) -> None:
    records = [record for record in TRAIN if _is_chinese(_questions(record)[0]) == chinese]
    answers = [answer for record in records for answer in _answers(record)]
    taught = {name for answer in answers for name, _ in CALLED.findall(answer)}
    assert taught == PARAMETERS.keys()


@pytest.mark.parametrize("chinese", [True, False], ids=["chinese", "english"])
def test_some_answers_say_that_there_is_no_such_interface(chinese: bool) -> None:
    final = [_answers(record)[-1] for record in TRAIN]
    denials = [answer for answer in final if NONE_SUCH.search(answer) and _is_chinese(answer) == chinese]
    assert len(denials) >= 5


# -- the questions ---------------------------------------------------------------------------------


def test_every_question_is_asked_once() -> None:
    asked = [_normalise(text) for record in [*TRAIN, *HELD_OUT] for text in _questions(record)]
    assert sorted(asked) == sorted(set(asked))


@pytest.mark.parametrize("record", HELD_OUT, ids=lambda record: _questions(record)[0])
def test_a_held_out_question_is_in_other_words(record: Record) -> None:
    own = _normalise(_questions(record)[0])
    trained = [_normalise(text) for each in TRAIN for text in _questions(each)]
    nearest = max(trained, key=lambda text: SequenceMatcher(None, own, text).ratio())
    assert SequenceMatcher(None, own, nearest).ratio() < 0.75, f"too near to {nearest!r}"


# -- the form --------------------------------------------------------------------------------------


@each_file
def test_a_message_has_the_keys_of_its_role_and_a_text(records: list[Record]) -> None:
    for record in records:
        assert record.keys() <= {"messages", "tools"}
        for message in record["messages"]:
            assert {"role", "content"} <= message.keys() <= KEYS[message["role"]]
            assert message.get("weight", 0) in (0, 1)
            if "tool_calls" in message:
                assert message["content"] in (None, "")
            else:
                assert message["content"] == message["content"].strip() != ""


@each_file
def test_roles_come_in_order(records: list[Record]) -> None:
    for record in records:
        letters = ("c" if "tool_calls" in message else message["role"][0] for message in record["messages"])
        assert ORDER.fullmatch("".join(letters))


@each_file
def test_every_call_has_one_result_and_it_follows_the_call(records: list[Record]) -> None:
    for record in records:
        waiting: list[str] = []
        for message in record["messages"]:
            if message["role"] == "tool":
                waiting.remove(message["tool_call_id"])
                json.loads(message["content"])
            else:
                assert waiting == []
                waiting = [call["id"] for call in message.get("tool_calls", [])]
        ids = [call["id"] for call in _calls(record)]
        assert sorted(ids) == sorted(set(ids))


@each_file
def test_what_is_not_learned_is_put_right_later(records: list[Record]) -> None:
    for record in records:
        said = [message for message in record["messages"] if message["role"] == "assistant"]
        assert said[-1].get("weight", 1) == 1
        for message in said:
            if message.get("weight") == 0:
                assert message["content"] not in _answers(record)


def test_the_readme_shows_records_of_the_training_file() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    asked = [_questions(record) for record in TRAIN]
    for block in blocks:
        assert _questions(json.loads(block)) in asked


# -- the truth -------------------------------------------------------------------------------------


@each_file
def test_an_answer_names_only_what_the_api_has(records: list[Record]) -> None:
    known = PARAMETERS.keys() | {name for parameters in PARAMETERS.values() for name in parameters}
    for record in records:
        for answer in _answers(record):
            assert set(CAMEL_CASE.findall(answer)) <= known
            for name, parameters in CALLED.findall(answer):
                assert parameters == ", ".join(PARAMETERS[name])


@each_file
def test_the_tools_are_described_as_the_api_describes_them(records: list[Record]) -> None:
    for record in records:
        offered = record.get("tools", [])
        language = "zh" if _is_chinese(_questions(record)[0]) else "en"
        described = {function["name"]: _tool(function, language) for function in FUNCTIONS}
        assert offered == [described[tool["function"]["name"]] for tool in offered]
        assert ("tools" in record) == bool(_calls(record))


@each_file
def test_a_call_is_of_an_offered_function_with_exactly_its_parameters(records: list[Record]) -> None:
    for record in records:
        offered = {tool["function"]["name"] for tool in record.get("tools", [])}
        for call in _calls(record):
            assert call.keys() == {"id", "type", "function"} and call["type"] == "function"
            assert call["function"].keys() == {"name", "arguments"}
            assert call["function"]["name"] in offered
            types = PARAMETERS[call["function"]["name"]]
            arguments = json.loads(call["function"]["arguments"])
            assert list(arguments) == list(types)
            assert all(isinstance(value, TYPES[types[name]]) for name, value in arguments.items())


@each_file
def test_a_call_is_made_of_what_was_said(records: list[Record]) -> None:
    for record in records:
        said = ""
        for message in record["messages"]:
            for call in message.get("tool_calls", []):
                values = json.loads(call["function"]["arguments"])
                for name in values.keys() & {"userId", "orderId", "productId", "keyword"}:
                    assert values[name] in said, values[name]
            said += message["content"] or ""


# -- the runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.yaml", "run-qwen2-7b.yaml"])
def test_a_run_learns_from_the_files_that_are_there(name: str) -> None:
    data = load_run_spec(FOLDER / name).data
    assert data is not None
    assert (data.train, data.eval) == ("train.jsonl", "held_out.jsonl")


def test_the_small_run_is_of_the_demo_model() -> None:
    spec = load_run_spec(FOLDER / "run.yaml")
    assert (spec.title, spec.model.name) == ("support-api", "demo:smollm2-135m-instruct")


def test_the_large_run_has_the_settings_of_the_guide() -> None:
    spec = load_run_spec(FOLDER / "run-qwen2-7b.yaml")
    assert spec.model.name == "Qwen/Qwen2-7B-Instruct"
    assert spec.method == "qlora"
    assert (spec.lora.r, spec.lora.alpha, spec.lora.dropout) == (64, 128, 0)
    assert spec.lora.target_modules == "projections"
    training = spec.training
    assert (training.epochs, training.batch_size, training.gradient_accumulation_steps) == (3, 2, 4)
    assert (training.warmup_steps, training.learning_rate, training.max_length) == (5, 2e-4, 2048)
    assert (training.optimizer, training.gradient_checkpointing) == ("adamw_8bit", True)


def _questions(record: Record) -> list[str]:
    return [message["content"] for message in record["messages"] if message["role"] == "user"]


def _answers(record: Record) -> list[str]:
    """What the assistant says in words and is to learn."""
    said = [message for message in record["messages"] if message["role"] == "assistant"]
    return [message["content"] for message in said if message["content"] and message.get("weight") != 0]


def _calls(record: Record) -> list[dict[str, Any]]:
    return [call for message in record["messages"] for call in message.get("tool_calls", [])]


def _tool(function: dict[str, Any], language: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in function["parameters"].items()},
        "required": list(function["parameters"]),
    }
    return {
        "type": "function",
        "function": {"name": function["name"], "description": function[language], "parameters": parameters},
    }


def _is_chinese(text: str) -> bool:
    return re.search(r"[\u4e00-\u9fff]", text) is not None


def _normalise(text: str) -> str:
    return "".join(re.findall(r"\w+", text.casefold()))
