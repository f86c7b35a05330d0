"""What a sealed dataset says became of each row, and the proof that nothing was lost or counted twice."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone_contract.artifact import Artifact
from hone_trainer.record import Record, load_records


@dataclass(frozen=True)
class Account:
    """The files of a dataset."""

    report: dict[str, Any]
    train: list[Record]
    eval: list[Record]
    rejected: list[dict[str, Any]]
    removed: list[dict[str, Any]]

    @property
    def records(self) -> dict[str, Record]:
        """Each record that was taken, by its place."""
        return {record.source: record for record in self.train + self.eval}

    @property
    def reasons(self) -> dict[str, str]:
        """Why each row that was not taken was not, by its place."""
        return {_place(row): row["reason"] for row in self.rejected + self.removed}


def account_of(dataset: Artifact) -> Account:
    """Read a dataset, and check that its files agree with each other and with its report."""
    path = dataset.path
    account = Account(
        report=json.loads((path / "report.json").read_text(encoding="utf-8")),
        train=load_records(path / "train.jsonl"),
        eval=load_records(path / "eval.jsonl"),
        rejected=_lines(path / "rejected.jsonl"),
        removed=_lines(path / "removed.jsonl"),
    )
    _check_sums(account)
    _check_places(account)
    return account


def _check_sums(account: Account) -> None:
    report = account.report
    for part in (report, *report["sources"]):
        rejected, removed = _total(part["rejected"]), _total(part["removed"])
        assert part["accepted"] + rejected + removed == part["read"], part
    for key in ("read", "accepted", "repeated"):
        assert report[key] == sum(source[key] for source in report["sources"])
    assert (report["rejected"], report["removed"]) == (len(account.rejected), len(account.removed))
    assert (report["train_records"], report["eval_records"]) == (len(account.train), len(account.eval))
    assert report["accepted"] + report["repeated"] == len(account.train) + len(account.eval)
    for kind, rows in (("rejected", account.rejected), ("removed", account.removed)):
        told = sum((Counter(source[kind]) for source in report["sources"]), Counter())
        assert told == Counter(row["reason"] for row in rows)


def _check_places(account: Account) -> None:
    """Every row is in one place, and only a record to learn from is there more than once."""
    learned = {record.to_json() for record in account.train}
    aside = [record.to_json() for record in account.eval]
    rows = [*learned, *aside, *map(json.dumps, account.rejected + account.removed)]
    assert len(set(rows)) == len(rows) == account.report["read"]
    assert account.report["repeated"] == len(account.train) - len(learned)


def _place(row: dict[str, Any]) -> str:
    return f"{row['file']}:{row['line']}"


def _total(count: int | dict[str, int]) -> int:
    return count if isinstance(count, int) else sum(count.values())


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]
