"""Hostile data: each input gets the verdict that it deserves, and no good record is lost on the way."""

import json
from pathlib import Path
from typing import Any

import pytest
from trainer_accounting import Account, account_of
from trainer_cli import HEAVY, refusal, run_trainer
from trainer_hostile import BadRow, Refused, Taken, bad_rows, good, lines, refused, taken

from hone_contract.artifact import Artifact
from hone_contract.errors import BadInput, HoneError
from hone_contract.store import Store
from hone_trainer.plan import prepare_data

MODEL = {"name": "Qwen/Qwen2.5-1.5B-Instruct"}
"""On the Hub and not in the store, so that no tokens are counted."""
LOOSE = {"max_rejected": 0.99, "eval_fraction": 0.3, "clean": {"duplicates": False, "near_duplicates": None}}
ROWS, TAKEN, REFUSED = bad_rows(), taken(), refused()


def specify(folder: Path, train: str | list[str], **data: Any) -> Path:
    spec = {"model": MODEL, "data": {"train": train, **data}}
    (folder / "run.yaml").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return folder / "run.yaml"


def prepare(folder: Path, train: str | list[str], **data: Any) -> Artifact:
    return prepare_data(specify(folder, train, **data), None, Store(folder / "store"))[1]


def refused_with(folder: Path, train: str | list[str], **data: Any) -> HoneError:
    with pytest.raises(HoneError) as caught:
        prepare(folder, train, **data)
    assert not (folder / "store").exists()
    return caught.value


def test_the_corpus_has_no_name_twice() -> None:
    names = [str(each) for each in (*ROWS, *TAKEN, *REFUSED)]
    assert len(set(names)) == len(names) > 300


@pytest.mark.parametrize("at", [0, 1, 3], ids=["first", "between", "last"])
def test_every_bad_row_is_rejected_with_its_line_and_its_reason(tmp_path: Path, at: int) -> None:
    """All of them in one file, among good ones: none may hide or change another."""
    texts = []
    for number, row in enumerate(ROWS):
        around = [good(3 * number), good(3 * number + 1), good(3 * number + 2)]
        texts += [*around[:at], row.line, *around[at:]]
    (tmp_path / "data.jsonl").write_bytes(lines(*texts))
    account = account_of(prepare(tmp_path, "data.jsonl", **LOOSE))
    assert account.report["accepted"] == 3 * len(ROWS)
    for number, (row, told) in enumerate(zip(ROWS, account.rejected, strict=True)):
        place = ("data.jsonl", 4 * number + at + 1)
        assert ((told["file"], told["line"]), told["reason"]) == (place, row.reason), (row.name, told)
        check_told(row, told["message"])
        assert len(told["excerpt"]) < 1000
    check_good(account)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_strictly_taken_a_bad_row_refuses_the_data(tmp_path: Path, row: BadRow) -> None:
    (tmp_path / "data.jsonl").write_bytes(lines(good(1), "", row.line, good(2)))
    error = refused_with(tmp_path, "data.jsonl", strict=True)
    place, told = str(error)[:13], str(error)[13:]
    assert (error.exit_code, place) == (BadInput.exit_code, "data.jsonl:3:")
    check_told(row, told)


def check_told(row: BadRow, told: str) -> None:
    assert row.told in told, (row.name, told)
    assert len(told) < 1000 and told.isprintable(), (row.name, told)


def check_good(account: Account) -> None:
    """Good records came through word for word."""
    for record in account.train + account.eval:
        asked, answered = (message["content"] for message in record.messages)
        assert asked.removeprefix("Question ").removesuffix("?") == answered.removeprefix("Answer ")[:-1]


@pytest.mark.parametrize("case", TAKEN, ids=str)
def test_whatever_can_be_taken_is(tmp_path: Path, case: Taken) -> None:
    case.make(tmp_path)
    account = account_of(prepare(tmp_path, case.train, **LOOSE))
    assert (account.report["accepted"], account.reasons) == (case.count, case.rejected)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_cannot_be_trusted_is_refused(tmp_path: Path, case: Refused) -> None:
    case.make(tmp_path)
    error = refused_with(tmp_path, case.train)
    assert case.told in str(error)
    assert error.exit_code == case.code


# -- the real command ------------------------------------------------------------------------------


def find(name: str) -> Refused:
    [case] = [case for case in REFUSED if case.name == name]
    return case


@pytest.mark.parametrize(
    "name",
    ["UTF-16, big end first", "a deep array", "cut zstd", "a link to itself", "nothing but a bad line"],
)
def test_the_command_tells_one_error_and_no_traceback(tmp_path: Path, name: str) -> None:
    case = find(name)
    case.make(tmp_path)
    specify(tmp_path, case.train)
    assert case.told in refusal(run_trainer(tmp_path, "prepare", "run.yaml"), case.code)


def test_the_command_takes_what_is_good_and_tells_of_the_rest(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(lines(*map(good, range(9)), *(row.line for row in ROWS)))
    specify(tmp_path, "data.jsonl", **LOOSE)
    done = run_trainer(tmp_path, "prepare", "run.yaml")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err and not done.imported & HEAVY
    assert f"{len(ROWS)} bad rows are in " in done.err
