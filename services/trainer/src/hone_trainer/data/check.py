"""One file, looked through for whoever wants to know whether it can be learned from.

Each record is read and cleaned as for a dataset, but there is no base, so nothing is counted in tokens. The
file is never in memory as a whole.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hone_contract.data_spec import CleanSpec
from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.data.cleaning import clean
from hone_trainer.data.files import DataFile, find_files
from hone_trainer.data.formats import Draft, How, read_record
from hone_trainer.data.reading import read_rows
from hone_trainer.data.rejection import Rejected, printable
from hone_trainer.data.rows import Row

_KEPT, _SHOWN, _LONGEST = 100, 10, 500
_HOW = How(columns={}, system=None, join="{instruction}\n\n{input}", format=None)
_CLEAN = CleanSpec()


@dataclass(frozen=True)
class Problem:
    """A record that cannot be learned from, or where the file cannot be read on."""

    line: int | None
    reason: str
    """A `Reason`, or `unreadable` for what the file is from there on."""
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


@dataclass
class Checked:
    """What was found in a file."""

    name: str
    records: int = 0
    """Good ones."""
    characters: int = 0
    """Of all messages of the good ones."""
    forms: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    """The first hundred."""
    more: int = 0
    """Problems after those."""

    @property
    def is_good(self) -> bool:
        return self.records > 0 and not self.problems

    def add(self, draft: Draft) -> None:
        """Count a good record. Raises Rejected when it is of another kind than the others."""
        pairs = draft.form == "preference"
        if self.forms and pairs is not ("preference" in self.forms):
            kind, other = ("a preference pair", "answers") if pairs else ("no preference pair", "such pairs")
            raise Rejected("unknown_format", f"is {kind}, and the file begins with {other}")
        every = draft.messages + (draft.chosen or []) + (draft.rejected or [])
        self.records += 1
        self.characters += sum(len(message["content"]) for message in every)
        self.forms[draft.form] += 1

    def tell(self, line: int | None, reason: str, message: str) -> None:
        if len(self.problems) < _KEPT:
            self.problems.append(Problem(line, reason, message))
        else:
            self.more += 1


def check(path: Path, most: int | None = None) -> Checked:
    """Look at the records of a file, or the first of them.

    Raises BadConfiguration when there is no such file, or nobody knows what it is.
    """
    file = _file(path)
    found = Checked(file.name)
    try:
        for row in islice(read_rows(file), most):
            _look(row, found)
    except BadInput as error:
        found.tell(*_place(file, str(error)))
    return found


def as_json(found: Checked) -> str:
    """In one line."""
    values: dict[str, Any] = {
        "records": found.records,
        "problems": [vars(problem) for problem in found.problems],
        "more": found.more,
        "characters": found.characters,
        "forms": dict(found.forms),
    }
    return json.dumps(values)


def as_text(found: Checked) -> str:
    """For people. Raises BadInput, naming the lines, when the file is not good."""
    forms = ", ".join(f"{count} {form}" for form, count in found.forms.most_common())
    if found.is_good:
        return f"{found.name}: {found.records} records ({forms}), {found.characters} characters"
    if not found.problems:
        raise BadInput(f"{found.name}: holds no record")
    more = len(found.problems) - _SHOWN + found.more
    told = [f"{found.name}: {found.records} good records, {len(found.problems) + found.more} bad ones"]
    told += map(str, found.problems[:_SHOWN])
    raise BadInput("\n       ".join([*told, *([f"… and {more} more"] if more > 0 else [])]))


def _file(path: Path) -> DataFile:
    if not path.is_file():
        raise BadConfiguration(f"{path}: there is no such file")
    if not path.suffix:
        # The api's files have no names.
        return DataFile(path, printable(path.name, _LONGEST), "jsonl", None)
    [file] = find_files(str(path), Path())
    return file


def _look(row: Row, found: Checked) -> None:
    try:
        draft = read_record(row.value, _HOW, set())
        clean(draft, _CLEAN)
        found.add(draft)
    except Rejected as problem:
        found.tell(row.line, problem.reason, str(problem))


def _place(file: DataFile, told: str) -> tuple[int | None, str, str]:
    """A message that begins with the file's name, and its line where there is one."""
    line, _, message = told.removeprefix(f"{file.name}:").partition(": ")
    if line.isdecimal():
        return int(line), "unreadable", message
    return None, "unreadable", told.removeprefix(f"{file.name}: ")
