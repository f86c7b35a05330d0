"""How fast an answer came."""

import pytest
from chat_process import Run, Terminal
from chat_script import Script

from hone_chat.pace import Pace

USAGE = {"prompt_tokens": 9, "completion_tokens": 42, "total_tokens": 51}


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (42, "42 tokens in 2.9 s (14.6 tokens/s), first after 0.31 s"),
        (1, "1 token in 2.9 s (0.35 tokens/s), first after 0.31 s"),
        (None, "17 pieces in 2.9 s (5.9 pieces/s), first after 0.31 s"),
    ],
)
def test_the_pace_in_words(tokens: int | None, told: str) -> None:
    pace = Pace(started=100.0, first=100.31, last=102.877, pieces=17)
    assert pace.told(tokens) == told


def test_without_a_piece_there_is_no_pace() -> None:
    assert Pace(started=1.0, last=2.0).told(3) is None
    assert Pace().told(None) is None


def test_a_conversation_says_the_pace_after_each_answer(plain: Terminal, script: Script) -> None:
    script.usage = USAGE
    shown = plain.ask("Where?")
    assert shown.startswith("Paris.\r\n\x1b[2m42 tokens in ")
    assert " tokens/s), first after " in shown
    assert "42 tokens in" in plain.ask("Where?")


def test_where_no_tokens_are_counted_it_is_pieces(plain: Terminal) -> None:
    assert "\x1b[2m2 pieces in " in plain.ask("Where?")


def test_one_answer_says_its_pace_if_asked(run: Run, script: Script) -> None:
    script.usage = USAGE
    assert run("Hello").err == ""
    outcome = run("Hello", "--stats")
    assert outcome.out == "Paris.\n"
    assert outcome.err.startswith("42 tokens in ")
    assert "\x1b" not in outcome.err
