"""Conversations in files: read again, and written to be read."""

import json
from pathlib import Path

import pytest
from chat_process import Terminal
from chat_script import Script

from hone_chat.conversation import Conversation, Turn
from hone_chat.errors import BadInput
from hone_chat.transcript import export, load, save

TURN = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]


def record(*messages: object) -> str:
    return json.dumps({"messages": messages})


def test_what_save_wrote_load_reads(tmp_path: Path) -> None:
    file = tmp_path / "my chat.jsonl"
    save(Conversation("Briefly.", [Turn("Où?", "Là.\n", "hone-faq"), Turn("Sure?", "Yes.")]), file)
    assert load(str(file)) == Conversation("Briefly.", [Turn("Où?", "Là.\n"), Turn("Sure?", "Yes.")])


def test_a_conversation_goes_on_from_a_file(plain: Terminal, script: Script, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(record({"role": "system", "content": "Briefly."}, *TURN) + "\n")
    plain.ask("Before?")
    assert f"The conversation is now that of {file}: 1 turn." in plain.ask(f"/load {file}")
    plain.ask("Sure?")
    assert script.said() == ["system: Briefly.", "user: Where?", "assistant: Here.", "user: Sure?"]
    plain.ask("/system")


def test_a_file_that_is_wrong_changes_nothing(plain: Terminal, script: Script, tmp_path: Path) -> None:
    plain.ask("Before?")
    assert "/load needs a file" in plain.ask("/load")
    assert "cannot be read: No such file" in plain.ask(f"/load {tmp_path}/nowhere")
    plain.ask("Sure?")
    assert script.said()[0] == "user: Before?"


def test_of_training_data_a_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    parts = [{"type": "text", "text": "Whe"}, {"type": "text", "text": "re?"}]
    other = [{"role": "developer", "content": "Hm."}, {"role": "user", "content": parts}, TURN[1]]
    file.write_text("\n".join(["", record(*TURN), "", json.dumps({"messages": other, "source": "x"}), ""]))
    assert load(f"{file} 2").turns == [Turn("Where?", "Here.")]
    assert load(f"{file} 4") == Conversation("Hm.", [Turn("Where?", "Here.")])
    with pytest.raises(BadInput, match=r"holds several conversations. Name a line: /load .*train.jsonl 2"):
        load(str(file))
    file.with_name("train.jsonl 2").write_text(record(*TURN, *TURN))
    assert len(load(f"{file} 2").turns) == 2
    for line in (0, 3, 9):
        with pytest.raises(BadInput, match=f"There is no conversation in line {line} of"):
            load(f"{file} {line}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", ":1: not JSON: "),
        (b"[" * 100_000, ":1: not JSON: "),
        (b"caf\xe9", ":1: not UTF-8"),
        (b"[]", r':1: no \{"messages"'),
        (b'{"messages": {}}', r':1: no \{"messages"'),
        (record("x").encode(), r":1: messages\[0\] is no object"),
        (
            record({"role": "tool", "content": "x"}).encode(),
            r":1: messages\[0\].role is 'tool'; a conversation",
        ),
        (
            record(TURN[0], {"role": "assistant", "content": None}).encode(),
            r"messages\[1\].content is no text",
        ),
        (
            record({"role": "user", "content": [{"type": "image_url"}]}).encode(),
            r"messages\[0\].content is no text",
        ),
        (record(TURN[0], {**TURN[1], "tool_calls": [{}]}).encode(), r"messages\[1\] calls tools"),
        (
            record({"role": "user", "content": "\ud83d"}).encode(),
            r"messages\[0\].content holds half a character",
        ),
        (record(TURN[1]).encode(), r"messages\[0\] is of 'assistant', out of turn"),
        (
            record(*TURN, {"role": "system", "content": "x"}).encode(),
            r"messages\[2\] is of 'system', out of turn",
        ),
        (record(*TURN, TURN[0]).encode(), "the last message must be the assistant's"),
        (record().encode(), "the last message must be the assistant's"),
        (b"\n \n", "There is no conversation in "),
    ],
    ids=range(16),
)
def test_what_is_no_conversation_is_refused(line: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_bytes(line)
    with pytest.raises(BadInput, match=message):
        load(str(file))


def test_export_writes_markdown_for_people(tmp_path: Path) -> None:
    file = tmp_path / "chat.md"
    export(Conversation("Briefly.", [Turn("Où?", "Là.\n", "hone-faq"), Turn("Sure?", "*Yes.*")]), file)
    assert file.read_text("utf-8") == (
        "# Conversation\n\n## System prompt\n\nBriefly.\n\n"
        "## Question 1\n\nOù?\n\n## Answer 1, by hone-faq\n\nLà.\n\n"
        "## Question 2\n\nSure?\n\n## Answer 2\n\n*Yes.*\n"
    )


def test_export_spares_what_is_there(plain: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "chat.md"
    assert "Nothing was said yet" in plain.ask(f"/export {file}")
    plain.ask("Where?")
    assert "/export needs a file" in plain.ask("/export")
    assert f"Exported to {file}." in plain.ask(f"/export {file}")
    assert "exists and is left as it is" in plain.ask(f"/export {file}")
    assert "by hone-faq\n\nParis.\n" in file.read_text("utf-8")
    assert "there is no such home" in plain.ask("/export ~no-such-user/chat.md")
