"""A conversation at a terminal of its own."""

import pytest
from chat_process import SECONDS, Run, Terminal
from chat_script import Script, error_body
from chat_server import FakeServer, serving

pytestmark = pytest.mark.chain


def test_a_conversation_from_greeting_to_exit(server: FakeServer, script: Script) -> None:
    script.models = ["base", "tuned"]
    with Terminal(server.url, "--system", "Briefly.") as terminal:
        assert "base at http" in terminal.wait_for("helps")
        terminal.ask("Where?")
        terminal.ask("")
        terminal.ask("Sure?")
        assert script.said()[:2] == ["system: Briefly.", "user: Where?"]
        assert script.said()[2:] == ["assistant: Paris.", "user: Sure?"]
        assert terminal.leave("exit\r") == 0


def test_ctrl_c_at_the_prompt_leaves(server: FakeServer) -> None:
    with Terminal(server.url, "--model", "hone-faq") as terminal:
        assert terminal.leave("\x03") == 0
        assert "Traceback" not in terminal.screen


def test_a_server_that_goes_away_is_told_and_ctrl_d_leaves() -> None:
    with serving() as server, Terminal(server.url) as terminal:
        terminal.wait_for("helps")
        server.shutdown()
        server.server_close()
        assert "No server answers at http://" in terminal.ask("Still there?")
        assert terminal.leave("\x04") == 0


def test_no_server_at_the_start_exits_75() -> None:
    with Terminal("http://127.0.0.1:9/v1", "--model", "hone-faq") as terminal:
        terminal.wait_for("error: No server answers at http://127.0.0.1:9/v1. Start one")
        assert terminal.end() == 75


def test_quit_in_a_terminal_that_cannot_redraw(server: FakeServer, script: Script) -> None:
    script.pieces = ["It is **Pa", "ris**."]
    with Terminal(server.url, TERM="dumb") as terminal:
        assert terminal.ask("Where?").startswith("It is **Paris**.\r\n")
        assert terminal.leave("quit\r") == 0


def test_a_pipe_is_no_conversation(run: Run, script: Script) -> None:
    assert run(stdin=b"exit\n").out == "Paris.\n"
    assert script.said() == ["user: exit"]


def test_ctrl_c_stops_the_answer_and_keeps_its_start(terminal: Terminal, script: Script) -> None:
    script.never_ends = True
    terminal.enter("Count")
    terminal.wait_for(r"Paris\.")
    terminal.type("\x03")
    terminal.wait_for("Stopped. What was said so far is kept.")
    assert script.hung_up.wait(SECONDS)

    script.never_ends = False
    terminal.ask("Go on")
    assert script.said() == ["user: Count", "assistant: Paris.", "user: Go on"]


def test_a_refused_question_is_dropped(plain: Terminal, script: Script) -> None:
    script.failure = (400, error_body("maximum context length is 9", 400))
    assert "(400): maximum context length is 9. Change" in plain.ask("Too long")
    script.failure = None
    plain.ask("Shorter")
    assert script.said() == ["user: Shorter"]


def test_a_turn_whose_connection_was_lost_is_dropped(terminal: Terminal, script: Script) -> None:
    script.breaks_off = True
    assert "was lost before the answer was complete" in terminal.ask("Broken")
    script.breaks_off = False
    terminal.ask("Again")
    assert script.said() == ["user: Again"]


def test_a_turn_without_an_answer_is_dropped(plain: Terminal, script: Script) -> None:
    script.pieces = []
    assert plain.ask("Nothing") == ""
    script.pieces = ["Fine."]
    plain.ask("And now?")
    assert script.said() == ["user: And now?"]


def test_the_line_can_be_edited(plain: Terminal, script: Script) -> None:
    plain.ask("Wheere?\x1b[D\x1b[D\x1b[D\x7f")
    plain.ask("\x1b[A")
    assert script.said()[0] == script.said()[2] == "user: Where?"
