"""Typing at the prompt: several lines, and what was typed before."""

import os
import pty
import select
import stat
import subprocess
from pathlib import Path

import pytest
from chat_process import COMMAND, SECONDS, Terminal, environment
from chat_script import Script
from chat_server import FakeServer

pytestmark = pytest.mark.chain

PASTE = "\x1b[200~def f():\r    return 1\x1b[201~"
ALT_ENTER = "\x1b\r"
UP = "\x1b[A"


def test_alt_enter_starts_a_line(plain: Terminal, script: Script) -> None:
    plain.ask(f"one{ALT_ENTER}two")
    assert script.said() == ["user: one\ntwo"]


def test_a_line_that_ends_with_a_backslash_goes_on(plain: Terminal, script: Script) -> None:
    plain.ask("one\\\rtwo \\\rC:\\ is a drive")
    assert script.said() == ["user: one\ntwo \nC:\\ is a drive"]


def test_a_backslash_within_a_line_is_text(plain: Terminal, script: Script) -> None:
    plain.ask("a\\b\x1b[D")
    assert script.said() == ["user: a\\b"]


def test_a_paste_of_several_lines_is_one_question(plain: Terminal, script: Script) -> None:
    plain.ask(f"What is this? {PASTE}")
    assert script.said() == ["user: What is this? def f():\n    return 1"]


def test_ctrl_c_clears_what_is_typed_and_stays(plain: Terminal, script: Script) -> None:
    plain.ask("Never asked\x03Asked")
    assert script.said() == ["user: Asked"]


def test_a_byte_that_is_no_text_is_replaced(plain: Terminal, script: Script) -> None:
    plain.at_prompt()
    plain.press(b"caf\xe9 x\r")
    plain.wait_for("Paris")
    assert script.said() == ["user: caf� x"]


def test_the_history_outlives_the_conversation_and_is_private(
    server: FakeServer, script: Script, tmp_path: Path
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with Terminal(server.url, "--plain", **state) as terminal:
        terminal.ask("First")
        terminal.ask(f"Second{ALT_ENTER}line")
        assert terminal.leave("\x04") == 0
    file = tmp_path / "hone/chat-history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with Terminal(server.url, "--plain", **state) as terminal:
        terminal.ask(UP)
        assert script.said() == ["user: Second\nline"]
        terminal.ask("/reset")
        terminal.ask(UP * 4)
        assert script.said() == ["user: First"]


def test_without_history_nothing_is_written(server: FakeServer, script: Script, tmp_path: Path) -> None:
    with Terminal(server.url, "--plain", "--no-history", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.ask("First")
        terminal.ask(UP)
        assert script.said()[-1] == "user: First"
        assert terminal.leave("\x04") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_cannot_be_written_is_told_once(server: FakeServer, script: Script) -> None:
    with Terminal(server.url, "--plain", XDG_STATE_HOME="/dev/null") as terminal:
        terminal.ask("First")
        terminal.ask("Second")
        assert script.said()[-1] == "user: Second"
        assert (
            terminal.screen.count("What you type is not kept for later: /dev/null/hone/chat-history: ") == 1
        )
        assert terminal.leave("\x04") == 0


def test_a_terminal_that_can_only_print_takes_whole_lines(server: FakeServer, script: Script) -> None:
    with Terminal(server.url, TERM="dumb") as terminal:
        terminal.at_prompt()
        terminal.type("one\\\r")
        terminal.wait_for(r"\.\.\.> ")
        terminal.type("two\r")
        terminal.wait_for("Paris")
        assert script.said() == ["user: one\ntwo"]
        assert "\x1b" not in terminal.screen
        assert terminal.leave("quit\r") == 0


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_stdout_holds_answers_and_nothing_else(kind: str, server: FakeServer, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    answers = tmp_path / "answers"
    with answers.open("wb") as out:
        process = subprocess.Popen(
            COMMAND, stdin=theirs, stdout=out, stderr=theirs, env=environment(server.url, TERM=kind)
        )
    os.write(ours, b"Where?\r/params\rexit\r")
    while process.poll() is None:
        if select.select([ours], [], [], 0.05)[0]:
            os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    assert process.wait(SECONDS) == 0
    assert answers.read_bytes() == b"Paris.\n"
