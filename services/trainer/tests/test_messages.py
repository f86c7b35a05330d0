"""Data files: what is read, and what is refused with its line."""

import codecs
import json
from pathlib import Path

import pytest
from trainer_tiny import conversation, line, write_lines

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.messages import read_records
from hone_trainer.record import load_records

GOOD = line(("user", "Hi?"), ("assistant", "Hello."))
SYSTEM = ("system", "Be kind.")
USER = ("user", "Hi?")
ASSISTANT = ("assistant", "Hello.")


def refusal(file: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_records(file)
    return str(caught.value)


def message(**fields: object) -> str:
    """A record whose first message is this one."""
    return json.dumps({"messages": [fields, *conversation(ASSISTANT)]})


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turns",
    [
        [USER, ASSISTANT],
        [SYSTEM, USER, ASSISTANT],
        [USER, ASSISTANT, USER, ASSISTANT],
        [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
    ],
)
def test_a_conversation_is_read_as_it_stands(tmp_path: Path, turns: list[tuple[str, str]]) -> None:
    [record] = read_records(write_lines(tmp_path / "data.jsonl", [line(*turns)]))
    assert record.messages == conversation(*turns)
    assert record.source == "data.jsonl:1"


@pytest.mark.parametrize("text", ["\u2028", "\u2029", "\x85", "é 😀", "  indented\n\ttabs \r\n"])
def test_a_text_comes_through_unchanged(tmp_path: Path, text: str) -> None:
    content = f"a{text}b"
    file = write_lines(tmp_path / "data.jsonl", [line(USER, ("assistant", content)), GOOD])
    records = read_records(file)
    assert [record.source for record in records] == ["data.jsonl:1", "data.jsonl:2"]
    assert records[0].messages[-1]["content"] == content

    prepared = write_lines(tmp_path / "train.jsonl", [record.to_json() for record in records])
    assert load_records(prepared) == records


def test_byte_order_mark_crlf_blank_lines_and_a_missing_last_newline_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(codecs.BOM_UTF8 + f"{GOOD}\r\n\r\n  \n{GOOD}\r\n\n{GOOD}".encode())
    assert [record.source for record in read_records(file)] == [
        "data.jsonl:1",
        "data.jsonl:4",
        "data.jsonl:6",
    ]


def test_an_empty_prepared_file_has_no_records(tmp_path: Path) -> None:
    assert load_records(write_lines(tmp_path / "eval.jsonl", [])) == []


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"messages": [}', "not JSON at column 15: Expecting value"),
        ('{"messages": ["a\tb"]}', "not JSON at column 17: Invalid control character at"),
        (f"{GOOD} {GOOD}", f"not JSON at column {len(GOOD) + 2}: Extra data"),
        ("[" * 100_000, "is nested too deeply to be a record"),
        ("[]", 'has no "messages" list; a record is'),
        ("null", 'has no "messages" list; a record is'),
        ('{"prompt": "Hi?"}', 'has no "messages" list; a record is'),
        ('{"messages": {}}', 'has no "messages" list; a record is'),
        ('{"messages": [], "weight": 1}', "has the key 'weight', which is not understood; remove it"),
        ('{"messages": ["Hi?"]}', "messages[0] must have exactly the keys role and content"),
        (message(role="user"), "messages[0] must have exactly the keys role and content"),
        (message(role="user", content="Hi?", name="Bob"), "messages[0] must have exactly the keys"),
        (
            message(role="human", content="Hi?"),
            "messages[0].role is 'human'; known are system, user, assistant",
        ),
        (message(role=["user"], content="Hi?"), "messages[0].role is ['user']; known are"),
        (message(role="user", content=""), "messages[0].content is empty or no text"),
        (message(role="user", content=" \n"), "messages[0].content is empty or no text"),
        (message(role="user", content=None), "messages[0].content is empty or no text"),
        (message(role="user", content=[{"type": "text"}]), "messages[0].content is empty or no text"),
        (message(role="user", content="\ud83d"), "messages[0].content has half of a character"),
        (line(USER, SYSTEM, ASSISTANT), "a system message may only come first"),
        (line(SYSTEM, SYSTEM, USER, ASSISTANT), "a system message may only come first"),
        (line(), "must end with an assistant message: there is no answer to learn"),
        (line(SYSTEM), "must end with an assistant message: there is no answer to learn"),
        (line(USER), "must end with an assistant message: there is no answer to learn"),
        (line(ASSISTANT), "user and assistant must take turns, the user first"),
        (line(USER, USER, ASSISTANT), "user and assistant must take turns, the user first"),
        (line(USER, ASSISTANT, ASSISTANT), "user and assistant must take turns, the user first"),
    ],
)
def test_a_bad_record_is_refused_with_its_line(tmp_path: Path, bad: str, reason: str) -> None:
    file = write_lines(tmp_path / "data.jsonl", [GOOD, "", bad, GOOD])
    told = refusal(file)
    assert told.startswith(f"{file}:3: {reason}")
    assert "\n" not in told


def test_a_line_number_counts_lines_and_not_line_separators_in_a_text(tmp_path: Path) -> None:
    separated = line(USER, ("assistant", "a\u2028b\u2028c"))
    assert f"{tmp_path}/data.jsonl:2: " in refusal(write_lines(tmp_path / "data.jsonl", [separated, "{"]))


def test_every_bad_line_is_told(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "data.jsonl", ["{", GOOD, "[]"])
    first, second = refusal(file).split("\n")
    assert first.startswith(f"{file}:1: not JSON")
    assert second.strip().startswith(f'{file}:3: has no "messages"')


def test_of_many_bad_lines_ten_are_told(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "data.jsonl", [GOOD] + ["[]"] * 25)
    *told, more = refusal(file).split("\n")
    assert [each.strip().split(": ")[0] for each in told] == [f"{file}:{n}" for n in range(2, 12)]
    assert more.strip() == "… and 15 more bad lines"


def test_ten_bad_lines_are_all_told(tmp_path: Path) -> None:
    told = refusal(write_lines(tmp_path / "data.jsonl", ["[]"] * 10))
    assert told.count("\n") == 9
    assert "more bad lines" not in told


@pytest.mark.parametrize("content", [b"", b"\n \r\n", codecs.BOM_UTF8])
def test_a_file_without_records_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    assert refusal(file).startswith(f"{file}: holds no record")


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (GOOD.encode("utf-16"), 1),
        (f"{GOOD}\n\n".encode() + line(USER, ("assistant", "café")).encode("latin-1") + b"\n", 3),
        (codecs.BOM_UTF8 + f"{GOOD}\n".encode() + b"\xff\n", 2),
    ],
)
def test_a_file_that_is_not_utf8_is_refused_with_the_line(
    tmp_path: Path, content: bytes, number: int
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    assert refusal(file) == f"{file}:{number}: is not UTF-8; save the file as UTF-8"


def test_a_file_that_is_not_there_is_bad_configuration(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"none\.jsonl: cannot be read: No such file .* --data"):
        read_records(tmp_path / "none.jsonl")


def test_a_folder_in_place_of_a_file_is_bad_configuration(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot be read: Is a directory"):
        read_records(tmp_path)
