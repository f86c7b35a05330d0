"""The slash commands of a conversation."""

import json
import re
from pathlib import Path

from chat_process import Terminal
from chat_script import Script


def test_reset_forgets_and_a_space_escapes_the_slash(plain: Terminal, script: Script) -> None:
    plain.ask("Where?")
    assert "Forgotten." in plain.ask("/reset")
    plain.ask(" /etc is what?")
    assert script.said() == ["user: /etc is what?"]


def test_system_sets_and_removes_the_system_prompt(plain: Terminal, script: Script) -> None:
    assert "System prompt set." in plain.ask("/system In  verse.")
    plain.ask("Where?")
    assert script.said()[0] == "system: In  verse."
    plain.ask("/system\x1b\rOn a line of its own.")
    plain.ask("Where?")
    assert script.said()[0] == "system: On a line of its own."
    assert "System prompt removed." in plain.ask("/system")
    plain.ask("Where?")
    assert script.said()[0] == "user: Where?"


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
    names = "help reset system retry undo model params compare save load export".split()
    assert re.findall(r"^/(\w+) ", shown, re.MULTILINE) == names
    assert "There is no command /rest. Did you mean /reset?" in plain.ask("/rest")
