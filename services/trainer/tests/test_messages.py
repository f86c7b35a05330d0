"""OpenAI's messages: what becomes of each, and in which order they may stand."""

import json
from typing import Any

import pytest
from trainer_tiny import conversation

from hone_trainer.data.messages import MAX_DEPTH, check_order, check_text, check_value, read_messages, shown
from hone_trainer.data.rejection import Rejected
from hone_trainer.record import Messages

SYSTEM, USER, ASSISTANT = ("system", "Be kind."), ("user", "Hi?"), ("assistant", "Hello.")
FUNCTION = {"name": "look", "arguments": '{"at": "sky"}'}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "blue"}


def call(*names: str) -> dict[str, Any]:
    calls = [{"id": name, "type": "function", "function": FUNCTION} for name in names]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def read(*values: Any) -> Messages:
    return read_messages(list(values), set())


def told(*values: Any) -> str:
    with pytest.raises(Rejected) as caught:
        check_order(read(*values))
    return str(caught.value)


# -- one message -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\u2028", "\u2029", "\x85", "é 😀", "  indented\n\ttabs \r\n", ""])
def test_a_text_comes_through_unchanged(text: str) -> None:
    turns = conversation(USER, ("assistant", f"a{text}b"))
    assert read(*turns) == turns


def test_a_developer_is_the_system() -> None:
    assert read({"role": "developer", "content": "Be kind."}) == conversation(SYSTEM)


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "?"}]
    assert read({"role": "user", "content": parts}) == conversation(USER)


def test_a_refusal_is_an_answer() -> None:
    refusal = {"role": "assistant", "content": None, "refusal": "Hello."}
    assert read(refusal) == conversation(ASSISTANT)


def test_a_call_needs_no_content_and_gets_its_arguments_as_text() -> None:
    value = {"id": "a", "function": {"name": "look", "arguments": {"at": "sky"}}}
    [message] = read({"role": "assistant", "content": None, "tool_calls": [value]})
    assert message == call("a")


@pytest.mark.parametrize(("weight", "kept"), [(0, 0), (1, 1), (1.0, 1), (None, None)])
def test_an_answers_weight_is_kept(weight: float | None, kept: int | None) -> None:
    [message] = read({"role": "assistant", "content": "Hello.", "weight": weight})
    assert message.get("weight") == kept


def test_other_roles_have_no_weight_but_keep_their_name() -> None:
    assert read({"role": "user", "content": "Hi?", "weight": 1, "name": "Bob"}) == [
        {"role": "user", "content": "Hi?", "name": "Bob"}
    ]


def test_fields_without_a_meaning_are_named() -> None:
    unused: set[str] = set()
    read_messages([{"role": "user", "content": "Hi?", "date": 1, "name": None}], unused)
    assert unused == {"messages[].date"}


@pytest.mark.parametrize("text", ["\t", "\n", "\r", "\x85", "\u2028", "\ufeff", "\U0010ffff"])
def test_white_space_and_every_character_are_text(text: str) -> None:
    check_text("it", text)


@pytest.mark.parametrize("text", ["\0", "\x07", "\x0b", "\x1b", "\x7f", "\ud800", "\udfff"])
def test_control_characters_and_halves_of_characters_are_not(text: str) -> None:
    with pytest.raises(Rejected, match=r"^it has "):
        check_text("it", f"a{text}b")


def test_a_value_is_as_deep_as_can_be_read_later_and_no_deeper() -> None:
    value: Any = "a"
    for _ in range(MAX_DEPTH - 1):
        value = {"in": value}
    check_value("it", value)
    with pytest.raises(Rejected, match=f"^it is nested more than {MAX_DEPTH} levels deep"):
        check_value("it", [value])


def test_a_value_is_shown_cut_short_however_deep_it_is() -> None:
    assert shown("é" * 100) == '"' + "\\u00e9" * 6 + "\\u0…"
    deep = json.loads("[" * 900 + "]" * 900)
    assert len(shown(deep)) < 50


# -- their order -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turns",
    [
        [USER, ASSISTANT],
        [SYSTEM, USER, ASSISTANT],
        [USER, ASSISTANT, USER, ASSISTANT],
        [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
    ],
)
def test_user_and_assistant_take_turns(turns: list[tuple[str, str]]) -> None:
    check_order(conversation(*turns))
    check_order(conversation(*turns[:-1]), answered=False)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([USER, SYSTEM, ASSISTANT], "messages[1]: a system message may only come first"),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], "messages[1]: a system message may only come first"),
        ([SYSTEM], "must end with an assistant message: there is no answer to learn"),
        ([USER], "must end with an assistant message: there is no answer to learn"),
        ([ASSISTANT], "messages[0] is the assistant's; user and assistant must take turns, user first"),
        ([USER, USER, ASSISTANT], "messages[1] is the user's; user and assistant must take turns"),
        ([USER, ASSISTANT, ASSISTANT], "messages[2] is the assistant's; user and assistant must take turns"),
    ],
)
def test_another_order_is_refused(turns: list[tuple[str, str]], reason: str) -> None:
    assert told(*conversation(*turns)).startswith(reason)


def test_a_prompt_must_not_be_answered() -> None:
    with pytest.raises(Rejected, match="must end with the user's turn"):
        check_order(conversation(USER, ASSISTANT), answered=False)


def test_results_follow_their_calls_in_any_order() -> None:
    question, answer = conversation(USER, ASSISTANT)
    check_order(read(question, call("a"), RESULT, answer))
    check_order(read(question, call("a", "b"), {**RESULT, "tool_call_id": "b"}, RESULT, call("a")))
    check_order(read(question, call("a")))


def test_results_without_calls_and_calls_without_results_are_refused() -> None:
    question, answer = conversation(USER, ASSISTANT)
    assert told(question, RESULT, answer) == "messages[1]: a tool's result without a call before it"
    missing = 'messages[3]: comes before the result of call "b"'
    assert told(question, call("a", "b"), RESULT, answer) == missing
    other = {**RESULT, "tool_call_id": "c"}
    assert told(question, call("a"), other, answer) == 'messages[2] answers "c", which was not called'
    bare = {"role": "tool", "content": "blue"}
    assert told(question, call("a"), bare, answer).startswith("messages[2].tool_call_id is missing")


def test_one_answer_must_be_learned() -> None:
    question, answer = conversation(USER, ASSISTANT)
    check_order(read(question, {**answer, "weight": 0}, question, answer))
    assert told(question, {**answer, "weight": 0}) == "every answer has weight 0: there is nothing to learn"
