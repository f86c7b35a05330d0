"""What a terminal is shown: markdown, and no text that could drive it."""

import re

import pytest
from chat_process import Terminal
from chat_script import Script
from chat_server import FakeServer

from hone_chat.markdown import split_finished
from hone_chat.terminal import clean, one_line

ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f\r"
LIVE = "\x1b[2K"
"""What erases a line: only a region that is redrawn needs it."""


def test_markdown_is_drawn_live(server: FakeServer, script: Script) -> None:
    script.pieces = ["# Capi", "tals\n\nIt is **Pa", "ris**, see [map](http://map.test).\n\n"]
    script.pieces += [
        "```python\nprint(1)\n\n",
        "x = 2\n```\n\nUse `List<T>` or <b>tags</b>.\n\n<div>\nblock\n</div>\n",
    ]
    with Terminal(server.url, "Where?") as terminal:
        assert terminal.end() == 0
    assert LIVE in terminal.screen
    assert "\x1b[1mParis\x1b[0m" in terminal.screen
    assert "**" not in terminal.screen.rpartition(LIVE)[2]
    assert "http://map.test" in terminal.screen
    assert "\x1b]8" not in terminal.screen
    assert "<b>tags</b>" in terminal.screen
    assert "</div>" in terminal.screen


def test_plain_leaves_markdown_alone(plain: Terminal, script: Script) -> None:
    script.pieces = ["It is **Pa", "ris**."]
    assert plain.ask("Where?").startswith("It is **Paris**.\r\n")


def test_no_escape_sequence_reaches_the_terminal(terminal: Terminal, script: Script) -> None:
    script.pieces = ["safe", ATTACK[:1], ATTACK[1:], "\tsound\n"]
    shown = terminal.ask("Hello")
    assert "safe]0;owned[2J31m" in shown
    for sequence in ("\x1b]0", "\x1b[2J", "\x9b", "\x07", "\x08", "\x7f"):
        assert sequence not in shown


def test_an_answer_longer_than_the_screen_is_shown_whole(drawn: Terminal, script: Script) -> None:
    lines = [f"line {number}\n" for number in range(100)]
    script.pieces = ["```\n", *lines, "```\n\nDone."]
    shown = drawn.ask("Count")
    numbers = re.findall(r"line (\d+)", shown)
    assert numbers[-100:] == [str(number) for number in range(100)]
    assert "Done." in shown.rpartition(LIVE)[2]


def test_of_a_long_answer_the_end_is_shown_live(drawn: Terminal, script: Script) -> None:
    script.pieces = ["```\n", *(f"line {number}\n" for number in range(100))]
    script.never_ends = True
    drawn.enter("Count")
    frame = drawn.wait_for("line 99").rpartition(LIVE)[2]
    assert len(re.findall(r"line \d+", frame)) < 10
    drawn.type("\x03")
    drawn.wait_for("Stopped")


def test_clean_keeps_newline_tab_and_every_script() -> None:
    text = "b\n\tÄ→苹果👩‍👩‍👧"
    assert clean(f"a{ATTACK}{text}") == f"a]0;owned[2J31m{text}"


def test_one_line_is_one_short_line() -> None:
    assert one_line(" a\n\tb\x1b ") == "a b"
    assert one_line("x" * 600) == "x" * 500 + "…"


@pytest.mark.parametrize(
    ("text", "finished", "pending"),
    [
        ("one", "", "one"),
        ("one\n\n", "", "one\n\n"),
        ("one\n\ntwo", "one", "two"),
        ("one\n\ntwo\n\nthree", "one\n\ntwo", "three"),
        ("- a\n\n- b", "", "- a\n\n- b"),
        ("1. a\n\n   more", "", "1. a\n\n   more"),
        ("```\na\n\nb", "", "```\na\n\nb"),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```", "c"),
        ("one\n\n```\na\n\nb", "one", "```\na\n\nb"),
    ],
)
def test_finished_is_what_no_later_text_can_change(text: str, finished: str, pending: str) -> None:
    assert split_finished(text) == (finished, pending)
