"""Another answer, and one question less."""

from chat_process import SECONDS, Terminal
from chat_script import Script, error_body


def test_retry_asks_the_last_question_for_another_answer(plain: Terminal, script: Script) -> None:
    plain.ask("One?")
    plain.ask("Two?")
    script.pieces = ["Rome."]
    assert plain.ask("/retry").startswith("Rome.\r\n")
    assert script.said() == ["user: One?", "assistant: Paris.", "user: Two?"]
    plain.ask("Three?")
    assert script.said()[-3:] == ["user: Two?", "assistant: Rome.", "user: Three?"]


def test_retry_asks_a_question_that_failed(plain: Terminal, script: Script) -> None:
    plain.ask("One?")
    script.failure = (500, error_body("busy", 500))
    plain.ask("Two?")
    script.failure = None
    plain.ask("/retry")
    assert script.said() == ["user: One?", "assistant: Paris.", "user: Two?"]


def test_a_retry_that_fails_keeps_the_old_answer(plain: Terminal, script: Script) -> None:
    plain.ask("One?")
    script.failure = (500, error_body("busy", 500))
    assert "The answer of before stays." in plain.ask("/retry")
    script.failure = None
    plain.ask("Two?")
    assert script.said() == ["user: One?", "assistant: Paris.", "user: Two?"]


def test_retry_and_undo_need_a_question(plain: Terminal, script: Script) -> None:
    assert "error: Nothing was asked yet" in plain.ask("/retry")
    assert "error: Nothing was said yet" in plain.ask("/undo")
    assert not script.asked


def test_undo_drops_the_last_turn_only(plain: Terminal, script: Script) -> None:
    plain.ask("One?")
    plain.ask("Two?")
    assert "Dropped: Two?" in plain.ask("/undo")
    plain.ask("Three?")
    assert script.said() == ["user: One?", "assistant: Paris.", "user: Three?"]


def test_ctrl_c_stops_a_retry_and_not_the_program(plain: Terminal, script: Script) -> None:
    plain.ask("One?")
    script.never_ends, script.pieces = True, ["Ber"]
    plain.enter("/retry")
    plain.wait_for("Ber")
    plain.type("\x03")
    plain.wait_for("Stopped. What was said so far is kept.")
    assert script.hung_up.wait(SECONDS)
    script.never_ends = False
    plain.ask("Two?")
    assert script.said() == ["user: One?", "assistant: Ber", "user: Two?"]
