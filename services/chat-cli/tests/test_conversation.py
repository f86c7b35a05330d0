"""A conversation at a terminal of its own."""

import json
from pathlib import Path

import pytest
from chat_rig import SECONDS, FakeServer, Run, Script, Terminal, serving


def said(script: Script) -> list[str]:
    messages = script.asked[-1]["messages"]
    return [f"{message['role']}: {message['content']}" for message in messages]


def test_a_conversation_from_greeting_to_exit(server: FakeServer, script: Script) -> None:
    script.models = ["base", "tuned"]
    with Terminal(server.url, "--system", "Briefly.") as terminal:
        assert "base at http" in terminal.wait_for("helps")
        terminal.ask("Where?")
        terminal.ask("")
        terminal.ask("Sure?")
        assert said(script) == (["system: Briefly.", "user: Where?", "assistant: Paris.", "user: Sure?"])
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
        assert terminal.ask("Where?") == "It is **Paris**.\r\n"
        assert terminal.leave("quit\r") == 0


def test_a_pipe_is_no_conversation(run: Run, script: Script) -> None:
    assert run(stdin=b"exit\n").out == "Paris.\n"
    assert said(script) == ["user: exit"]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(terminal: Terminal, script: Script) -> None:
    script.never_ends = True
    terminal.wait_for("you> ")
    terminal.type("Count\r")
    terminal.wait_for(r"Paris\.")
    terminal.type("\x03")
    terminal.wait_for("Stopped. What was said so far is kept.")
    assert script.hung_up.wait(SECONDS)

    script.never_ends = False
    terminal.ask("Go on")
    assert said(script) == ["user: Count", "assistant: Paris.", "user: Go on"]


def test_a_refused_question_is_dropped(plain: Terminal, script: Script) -> None:
    script.failure = (400, {"error": {"message": "maximum context length is 9", "code": 400}})
    assert "(400): maximum context length is 9. Change" in plain.ask("Too long")
    script.failure = None
    plain.ask("Shorter")
    assert said(script) == ["user: Shorter"]


def test_a_turn_whose_connection_was_lost_is_dropped(terminal: Terminal, script: Script) -> None:
    script.breaks_off = True
    assert "was lost before the answer was complete" in terminal.ask("Broken")
    script.breaks_off = False
    terminal.ask("Again")
    assert said(script) == ["user: Again"]


def test_a_turn_without_an_answer_is_dropped(plain: Terminal, script: Script) -> None:
    script.pieces = []
    assert plain.ask("Nothing") == ""
    script.pieces = ["Fine."]
    plain.ask("And now?")
    assert said(script) == ["user: And now?"]


def test_reset_forgets_and_a_space_escapes_the_slash(plain: Terminal, script: Script) -> None:
    plain.ask("Where?")
    assert "Forgotten." in plain.ask("/reset")
    plain.ask(" /etc is what?")
    assert said(script) == ["user: /etc is what?"]


def test_system_sets_and_removes_the_system_prompt(plain: Terminal, script: Script) -> None:
    assert "System prompt set." in plain.ask("/system In  verse.")
    plain.ask("Where?")
    assert said(script)[0] == "system: In  verse."
    assert "System prompt removed." in plain.ask("/system")
    plain.ask("Where?")
    assert said(script)[0] == "user: Where?"


def test_model_lists_and_changes_the_model(plain: Terminal, script: Script) -> None:
    script.models = ["hone-faq", "base"]
    assert "hone-faq\r\nbase\r\nYou talk to hone-faq." in plain.ask("/model")
    assert "You talk to typo now." in plain.ask("/model typo")
    assert "there is: hone-faq, base. Name one" in plain.ask("Where?")
    plain.ask("/model base")
    plain.ask("Where?")
    assert script.asked[-1]["model"] == "base"
    plain.ask("/model hone-faq")


def test_save_writes_chat_jsonl_and_spares_what_is_there(plain: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "my chat.jsonl"
    assert "Nothing was said yet" in plain.ask(f"/save {file}")
    plain.ask("Où?")
    assert "/save FILE" in plain.ask("/save")
    assert "Saved to" in plain.ask(f"/save {file}")
    assert "exists and is left as it is" in plain.ask(f"/save {file}")
    assert "cannot be written: No such file" in plain.ask(f"/save {tmp_path}/no/file")
    (saved,) = map(json.loads, file.read_text("utf-8").splitlines())
    assert saved == {
        "messages": [
            {"role": "user", "content": "Où?"},
            {"role": "assistant", "content": "Paris."},
        ]
    }


def test_help_lists_the_commands_and_a_wrong_one_is_told(plain: Terminal) -> None:
    shown = plain.ask("/help")
    assert all(f"/{name} " in shown for name in ("help", "reset", "system", "model", "save"))
    assert "There is no command /rest. Did you mean /reset?" in plain.ask("/rest")


def test_the_line_can_be_edited(plain: Terminal, script: Script) -> None:
    pytest.importorskip("readline")
    plain.ask("Wheere?\x1b[D\x1b[D\x1b[D\x7f")
    plain.ask("\x1b[A")
    assert said(script)[0] == said(script)[2] == "user: Where?"
