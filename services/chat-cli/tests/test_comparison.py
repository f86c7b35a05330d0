"""Two models answer one question."""

import re
import threading
from collections.abc import Iterator

import pytest
from chat_process import SECONDS, Run, Terminal
from chat_script import Script
from chat_server import FakeServer, serving

BOTH = "== base ==\nParis.\n\n== tuned ==\nRome.\n"
ROW = re.compile(r"Paris\. +│ +Rome\.")


@pytest.fixture(autouse=True)
def _two_models(script: Script) -> None:
    script.models = ["hone-faq", "base", "tuned"]
    script.answers = {"tuned": ["Ro", "me."]}


@pytest.fixture
def other() -> Iterator[FakeServer]:
    """A second server, with a model of the same name as the first one's."""
    with serving() as server:
        server.script.pieces = ["Rome."]
        yield server


def test_once_both_answers_stand_under_headings(run: Run, script: Script) -> None:
    outcome = run("Hello", "--model", "base", "--compare", "tuned", "--preset", "guide")
    assert (outcome.code, outcome.out, outcome.err) == (0, BOTH, "")
    first, second = script.asked
    assert (first.pop("model"), second.pop("model")) == ("base", "tuned")
    assert first == second


def test_the_second_model_may_be_on_a_server_of_its_own(run: Run, other: FakeServer) -> None:
    outcome = run("Hello", "--compare-url", other.url)
    first, second = re.findall(r"== hone-faq at (\S+) ==", outcome.out)
    assert first != second == other.url
    assert outcome.out.endswith("Rome.\n")


def test_each_server_gets_its_own_key_only(run: Run, script: Script, other: FakeServer) -> None:
    script.key, other.script.key = "sk-first", "sk-second"
    keys = {"HONE_API_KEY": "sk-first", "HONE_COMPARE_API_KEY": "sk-second"}
    assert run("Hello", "--compare-url", other.url, **keys).code == 0
    assert "sk-second" not in str(script.headers)
    assert "sk-first" not in str(other.script.headers)
    outcome = run("Hello", "--compare-url", other.url, HONE_API_KEY="sk-first")
    assert outcome.code == 78
    assert "wants a key (401) and none is set. Put it in HONE_COMPARE_API_KEY" in outcome.err


def test_a_second_model_that_fails_leaves_the_first_answer(run: Run) -> None:
    outcome = run("Hello", "--model", "base", "--compare", "typo")
    assert (outcome.code, outcome.out) == (78, "== base ==\nParis.\n\n== typo ==\n")
    assert outcome.err.startswith("error: typo: There is no model 'typo' at http")


def test_a_conversation_goes_on_with_the_first_answer(plain: Terminal, script: Script) -> None:
    assert "goes to hone-faq and tuned" in plain.ask("/compare tuned")
    shown = plain.ask("Where?").replace("\r\n", "\n")
    assert shown.startswith("== hone-faq ==\nParis.\n\n== tuned ==\nRome.\n")
    assert re.search("hone-faq: 2 pieces in .*\n.*tuned: 2 pieces in ", shown)
    plain.ask("Sure?")
    assert script.said() == ["user: Where?", "assistant: Paris.", "user: Sure?"]
    assert "You talk to hone-faq alone." in plain.ask("/compare off")
    assert "==" not in plain.ask("Again?")


def test_compare_without_a_name_takes_the_only_other_model(plain: Terminal, script: Script) -> None:
    assert "/compare needs a model: /compare NAME. There is: base, tuned." in plain.ask("/compare")
    script.models = ["hone-faq"]
    assert "There is: no other." in plain.ask("/compare")
    script.models = ["tuned", "hone-faq"]
    assert "goes to hone-faq and tuned" in plain.ask("/compare")


def test_a_second_model_that_fails_is_told_and_the_first_kept(plain: Terminal, script: Script) -> None:
    plain.ask("/compare typo")
    assert "error: typo: There is no model 'typo'" in plain.ask("Where?")
    plain.ask("/compare off")
    plain.ask("Sure?")
    assert script.said()[1] == "assistant: Paris."


def test_a_narrow_screen_has_one_answer_after_the_other(drawn: Terminal) -> None:
    drawn.ask("/compare tuned")
    shown = drawn.ask("Where?")
    assert shown.index("== hone-faq ==") < shown.index("Paris.") < shown.index("== tuned ==")
    assert "│" not in shown


def test_a_wide_screen_has_both_side_by_side_and_at_once(wide: Terminal, script: Script) -> None:
    wide.ask("/compare tuned")
    # Neither is answered before both were asked.
    script.together = threading.Barrier(2)
    script.pieces = ["Par", "is.\x1b[2J"]
    shown = wide.ask("Where?")
    assert re.search(r"\bhone-faq +│ +tuned\b", re.sub(r"\x1b\[\d+m", "", shown))
    assert re.search(r"Paris\.\[2J +│ +Rome\.", shown)
    assert "\x1b[2J" not in shown
    script.together = None
    wide.ask("/compare off")
    wide.ask("Sure?")
    assert script.said()[1] == "assistant: Paris.\x1b[2J"


def test_ctrl_c_stops_both_and_keeps_the_start_of_the_first(wide: Terminal, script: Script) -> None:
    wide.ask("/compare tuned")
    script.never_ends = True
    wide.enter("Count")
    wide.wait_for(ROW.pattern)
    wide.type("\x03")
    wide.wait_for("Stopped. What was said so far is kept.")
    assert script.hung_up.wait(SECONDS)
    script.never_ends = False
    wide.ask("Go on")
    assert script.said() == ["user: Count", "assistant: Paris.", "user: Go on"]


def test_long_answers_stand_whole_when_they_are_complete(wide: Terminal, script: Script) -> None:
    wide.ask("/compare tuned")
    script.pieces = [f"- left {number}\n" for number in range(60)]
    script.answers = {"tuned": ["```\n", *(f"right {number}\n" for number in range(90)), "```\n"]}
    shown = wide.ask("Count")
    whole = shown[shown.rindex("left 0") :]
    assert re.findall(r"left (\d+)", whole) == [str(number) for number in range(60)]
    assert re.findall(r"right (\d+)", whole) == [str(number) for number in range(90)]
