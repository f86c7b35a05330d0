"""--json: one object for scripts."""

import json

from chat_process import Run, Terminal, told
from chat_script import Script, error_body
from chat_server import FakeServer

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def test_one_object_says_all_of_the_answer(run: Run, script: Script) -> None:
    script.usage, script.pieces = USAGE, ["Où", " \x1b\x9b?\n"]
    outcome = run("Hello", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("\n") == 1
    assert not {"\x1b", "\x9b"} & set(outcome.out)
    said = json.loads(outcome.out)
    assert 0 < said.pop("first_token_seconds") <= said.pop("seconds")
    assert said == {
        "model": "hone-faq",
        "answer": "Où \x1b\x9b?\n",
        "finish_reason": "stop",
        "usage": USAGE,
    }


def test_what_a_server_does_not_count_is_null(run: Run, script: Script) -> None:
    script.pieces = []
    said = json.loads(run("Hello", "--json").out)
    assert (said["usage"], said["answer"], said["first_token_seconds"]) == (None, "", None)


def test_a_failure_leaves_stdout_empty(run: Run, script: Script) -> None:
    script.breaks_off = True
    outcome = run("Hello", "--json")
    assert "was lost" in told(outcome, 75)
    assert outcome.out == ""


def test_two_models_are_one_object(run: Run, script: Script) -> None:
    script.models, script.answers = ["base", "tuned"], {"tuned": ["Rome."]}
    said = json.loads(run("Hello", "--json", "--compare", "tuned").out)
    assert [(each["model"], each["answer"]) for each in said["answers"]] == [
        ("base", "Paris."),
        ("tuned", "Rome."),
    ]


def test_if_one_of_two_fails_there_is_no_object(run: Run, script: Script) -> None:
    script.failure = (500, error_body("busy", 500))
    outcome = run("Hello", "--json", "--model", "base", "--compare", "tuned")
    assert (outcome.code, outcome.out) == (75, "")
    assert "error: base: The server" in outcome.err
    assert "error: tuned: The server" in outcome.err


def test_a_conversation_is_no_json(server: FakeServer) -> None:
    with Terminal(server.url, "--json") as terminal:
        terminal.wait_for("error: --json is for one question: give it as an argument, or pipe it in.")
        assert terminal.end() == 78
