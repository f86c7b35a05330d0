"""Servers that do not know everything: they are told so once, and asked without it."""

from typing import Any

import pytest
from chat_process import Run, Terminal, told
from chat_script import Script, error_body

OPENAI = (400, error_body("Unrecognized request argument supplied: no_repeat_ngram_size", 400))
FASTAPI = (
    422,
    {
        "detail": [
            {"loc": ["body", "no_repeat_ngram_size"], "msg": "Extra inputs are not permitted", "input": 3}
        ]
    },
)
BY_PARAM = (400, {"error": {"message": "Unknown parameter.", "param": "no_repeat_ngram_size"}})


@pytest.mark.parametrize("refusal", [OPENAI, FASTAPI, BY_PARAM], ids=["OpenAI", "FastAPI", "by param"])
def test_a_field_that_a_server_does_not_know_is_told_and_left_out(
    refusal: tuple[int, Any], run: Run, script: Script
) -> None:
    script.refused = {"no_repeat_ngram_size": refusal}
    outcome = run("Hello", "--preset", "guide")
    assert (outcome.code, outcome.out) == (0, "Paris.\n")
    assert outcome.err.count("\n") == 1
    assert "does not take no_repeat_ngram_size: " in outcome.err
    assert outcome.err.endswith(". It is left out from now on.\n")
    first, second = script.asked
    assert first.pop("no_repeat_ngram_size") == 3
    assert second == first


def test_several_fields_are_left_out_one_after_the_other(run: Run, script: Script) -> None:
    names = ["repetition_penalty", "no_repeat_ngram_size", "seed", "stream_options"]
    script.refused = {name: (400, error_body(f"{name}: unknown field", 400)) for name in names}
    outcome = run("Hello", "--preset", "guide", "--seed", "1")
    assert (outcome.code, outcome.out) == (0, "Paris.\n")
    assert all(outcome.err.count(f"does not take {name}: ") == 1 for name in names)
    assert len(script.asked) == 5
    assert not script.asked[-1].keys() & set(names)


def test_it_is_told_once_in_a_conversation_but_another_value_is_tried(
    plain: Terminal, script: Script
) -> None:
    script.refused = {"seed": (400, error_body("seed is too large", 400))}
    plain.ask("/params seed=5")
    assert "does not take seed: seed is too large." in plain.ask("One?")
    assert "does not take" not in plain.ask("Two?")
    assert [("seed" in body) for body in script.asked] == [True, False, False]
    plain.ask("/params seed=4")
    script.refused = {}
    plain.ask("Three?")
    assert script.asked[-1]["seed"] == 4


def test_a_refusal_of_something_else_is_no_matter_of_fields(run: Run, script: Script) -> None:
    script.failure = (400, error_body("maximum context length is 9", 400))
    err = told(run("Hello", "--model", "hone-faq", "--preset", "guide"), 65)
    assert "maximum context length is 9" in err


def test_a_field_that_was_not_to_blame_is_not_told(run: Run, script: Script) -> None:
    script.failure = (400, error_body("the seed of the matter", 400))
    assert "the seed of the matter" in told(run("Hello", "--model", "hone-faq", "--seed", "1"), 65)


def test_what_the_server_repeats_of_the_question_is_not_searched(run: Run, script: Script) -> None:
    fault = {"loc": ["body", "messages"], "msg": "too long", "input": "what is a seed"}
    script.failure = (422, {"detail": [fault]})
    err = told(run("what is a seed", "--model", "hone-faq", "--seed", "1"), 65)
    assert "refused the question (422): body.messages: too long." in err
    assert len(script.headers) == 1
