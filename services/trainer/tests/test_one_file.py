"""A file that is read as it stands, such as the questions of `generate`."""

import codecs
import json
from pathlib import Path

import pytest
from trainer_tiny import conversation, line, write_lines

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.data.one_file import read_records
from hone_trainer.record import load_records

USER, ASSISTANT = ("user", "Hi?"), ("assistant", "Hello.")
GOOD = line(USER, ASSISTANT)


def refusal(file: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_records(file)
    return str(caught.value)


def test_nothing_is_cleaned_and_nothing_left_out(tmp_path: Path) -> None:
    spaced = line(USER, ("assistant", "  indented\n\ttabs \r\n"))
    records = read_records(write_lines(tmp_path / "data.jsonl", [spaced, GOOD, "", GOOD]))
    assert [record.source for record in records] == ["data.jsonl:1", "data.jsonl:2", "data.jsonl:4"]
    assert records[0].messages == json.loads(spaced)["messages"]


def test_every_form_of_conversation_is_read(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("prompt,completion\nHi?,Hello.\n", encoding="utf-8")
    [record] = read_records(tmp_path / "data.csv")
    assert record.messages == conversation(USER, ASSISTANT)


def test_a_sealed_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    records = read_records(
        write_lines(tmp_path / "data.jsonl", [line(USER, ("assistant", "a\u2028b")), GOOD])
    )
    sealed = write_lines(tmp_path / "train.jsonl", [record.to_json() for record in records])
    assert load_records(sealed) == records
    assert load_records(write_lines(tmp_path / "eval.jsonl", [])) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("{", "not JSON at column 2"),
        ("[]", "is no JSON object"),
        (line(USER), "must end with an assistant message"),
        ('{"text": "Once upon a time."}', "is no conversation with an answer, but in the form 'text'"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', "but in the form 'preference'"),
    ],
)
def test_a_bad_record_refuses_the_file_with_its_line(tmp_path: Path, bad: str, told: str) -> None:
    file = write_lines(tmp_path / "data.jsonl", [GOOD, "", bad, GOOD])
    assert refusal(file).startswith("data.jsonl:3: ")
    assert told in refusal(file) and "\n" not in refusal(file)


def test_every_bad_line_is_told(tmp_path: Path) -> None:
    first, second = refusal(write_lines(tmp_path / "data.jsonl", ["{", GOOD, "[]"])).split("\n")
    assert first.startswith("data.jsonl:1: not JSON")
    assert second.strip().startswith("data.jsonl:3: is no JSON object")


def test_of_many_bad_lines_ten_are_told(tmp_path: Path) -> None:
    *told, more = refusal(write_lines(tmp_path / "data.jsonl", [GOOD] + ["[]"] * 25)).split("\n")
    assert [each.strip().split(": ")[0] for each in told] == [f"data.jsonl:{n}" for n in range(2, 12)]
    assert more.strip() == "… and 15 more"


def test_ten_bad_lines_are_all_told(tmp_path: Path) -> None:
    told = refusal(write_lines(tmp_path / "data.jsonl", ["[]"] * 10))
    assert (told.count("\n"), "more" in told) == (9, False)


@pytest.mark.parametrize("content", [b"", b"\n \r\n", codecs.BOM_UTF8])
def test_a_file_without_records_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    assert refusal(tmp_path / "data.jsonl").endswith("data.jsonl: holds no record")


def test_a_file_that_is_not_there_is_bad_configuration(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"none\.jsonl: there is no such file"):
        read_records(tmp_path / "none.jsonl")
