"""`hone-trainer check`: whether a file can be learned from, and which lines not."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from trainer_cli import HEAVY, refusal, run_trainer
from trainer_tiny import line, write_lines

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.data.check import as_json, as_text, check

GOOD = line(("user", "Hi?"), ("assistant", "Hello."))
PAIR = '{"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}'
TOOLS = json.dumps(
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sun"},
            {"role": "assistant", "content": "Sun.", "weight": 1},
        ],
        "tools": [{"type": "function", "function": {"name": "weather"}}],
        "parallel_tool_calls": False,
    }
)


def problems(file: Path) -> list[tuple[int | None, str]]:
    return [(each.line, each.reason) for each in check(file).problems]


def test_what_openai_takes_is_good(tmp_path: Path) -> None:
    answers = line(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    weighed = answers.replace('"content": "b"', '"content": "b", "weight": 0')
    pairs = '{"prompt": "Hi? ->", "completion": " Hello."}'
    found = check(write_lines(tmp_path / "data.jsonl", [GOOD, weighed, TOOLS, "", pairs]))
    assert (found.records, found.problems, found.more) == (4, [], 0)
    assert found.forms == {"messages": 3, "prompt/completion": 1}
    assert as_text(found).startswith("data.jsonl: 4 records (3 messages, 1 prompt/completion), ")


def test_characters_are_those_of_all_messages(tmp_path: Path) -> None:
    assert check(write_lines(tmp_path / "data.jsonl", [GOOD, GOOD])).characters == 2 * len("Hi?Hello.")


def test_every_bad_line_is_named_with_its_reason(tmp_path: Path) -> None:
    bad = ["{", GOOD, "[]", '{"a": 1}', line(("user", "Hi?")), line(("user", "Hi?"), ("assistant", " "))]
    assert problems(write_lines(tmp_path / "data.jsonl", bad)) == [
        (1, "not_json"),
        (3, "not_an_object"),
        (4, "unknown_format"),
        (5, "no_answer"),
        (6, "empty"),
    ]


def test_of_many_bad_lines_a_hundred_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    found = check(write_lines(tmp_path / "data.jsonl", [GOOD, *["[]"] * 130]))
    assert (len(found.problems), found.more, found.records) == (100, 30, 1)
    with pytest.raises(BadInput) as caught:
        as_text(found)
    first, *lines, more = str(caught.value).split("\n       ")
    assert first == "data.jsonl: 1 good records, 130 bad ones"
    assert [each.partition(":")[0] for each in lines] == [f"line {number}" for number in range(2, 12)]
    assert more == "… and 120 more"


@pytest.mark.parametrize(("first", "then"), [(GOOD, PAIR), (PAIR, GOOD)])
def test_answers_and_preference_pairs_are_not_learned_together(tmp_path: Path, first: str, then: str) -> None:
    file = write_lines(tmp_path / "data.jsonl", [first, first, then])
    assert problems(file) == [(3, "unknown_format")]


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        (GOOD.encode() + b"\n\xff\n", 2, "is not UTF-8 at byte"),
        (GOOD.encode("utf-16"), None, "is UTF-16"),
        (b"\0\0\0\0", None, "begins with NUL bytes"),
        (b"PK\x03\x04\n\xff\n", 2, "is not UTF-8"),
    ],
)
def test_where_a_file_cannot_be_read_on_is_told(
    tmp_path: Path, content: bytes, line: int | None, told: str
) -> None:
    (tmp_path / "0f").write_bytes(content)
    found = check(tmp_path / "0f")
    assert [(each.line, each.reason) for each in found.problems] == [(line, "unreadable")]
    assert found.problems[0].message.startswith(told)


def test_a_file_without_an_ending_is_json_lines_and_others_are_what_they_say(tmp_path: Path) -> None:
    assert check(write_lines(tmp_path / ("0" * 64), [GOOD])).records == 1
    assert check(write_lines(tmp_path / "data.csv", ["prompt,completion", "Hi?,Hello."])).records == 1
    assert check(write_lines(tmp_path / "data.json", [f"[{GOOD}]"])).records == 1


@pytest.mark.parametrize("name", ["none.jsonl", ".", "data.pdf"])
def test_what_is_no_data_file_is_bad_configuration(tmp_path: Path, name: str) -> None:
    (tmp_path / "data.pdf").write_bytes(b"x")
    with pytest.raises(BadConfiguration, match=r"no such file|no known format"):
        check(tmp_path / name)


def test_of_a_file_the_first_records_may_do(tmp_path: Path) -> None:
    found = check(write_lines(tmp_path / "data.jsonl", [GOOD, GOOD, "["]), 2)
    assert (found.records, found.is_good) == (2, True)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_a_record_is_not_good(tmp_path: Path, content: str) -> None:
    (tmp_path / "data.jsonl").write_text(content, encoding="utf-8")
    found = check(tmp_path / "data.jsonl")
    assert (found.is_good, json.loads(as_json(found))["records"]) == (False, 0)
    with pytest.raises(BadInput, match="holds no record"):
        as_text(found)


def test_the_command_tells_one_line_of_json_and_loads_no_model_library(tmp_path: Path) -> None:
    write_lines(tmp_path / "good.jsonl", [GOOD])
    write_lines(tmp_path / "bad.jsonl", [GOOD, "{"])
    good, bad = (run_trainer(tmp_path, "check", f"{name}.jsonl", "--json") for name in ("good", "bad"))
    assert (good.code, bad.code, good.err, bad.err) == (0, 65, "", "")
    assert not (good.imported | bad.imported) & HEAVY
    assert json.loads(good.out) == {
        "records": 1,
        "problems": [],
        "more": 0,
        "characters": 9,
        "forms": {"messages": 1},
    }
    [problem] = json.loads(bad.out)["problems"]
    assert (problem["line"], problem["reason"]) == (2, "not_json")
    assert (bad.out.count("\n"), (tmp_path / "store").exists()) == (1, False)


def test_the_command_tells_people_what_is_wrong(tmp_path: Path) -> None:
    write_lines(tmp_path / "bad.jsonl", [GOOD, "{"])
    assert "\n       line 2: not JSON" in refusal(run_trainer(tmp_path, "check", "bad.jsonl"), 65)
    assert "no such file" in refusal(run_trainer(tmp_path, "check", "none.jsonl", "--json"), 78)


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "data.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(64):
            file.write(line(("user", "Hi?"), ("assistant", "x" * 2**20)) + "\n")

    def limit() -> None:
        # Of the heap; what is mapped from libraries is not in it.
        resource.setrlimit(resource.RLIMIT_DATA, (300 * 2**20, 300 * 2**20))

    command = [sys.executable, "-m", "hone_trainer", "check", "data.jsonl", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, preexec_fn=limit, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["records"] == 64
