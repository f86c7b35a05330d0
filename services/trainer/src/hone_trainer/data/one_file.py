"""One file, read as it stands: nothing is cleaned, and the first bad records refuse it."""

from pathlib import Path
from typing import Any

from hone_contract.errors import BadInput
from hone_trainer.data.files import find_files
from hone_trainer.data.formats import How, read_record
from hone_trainer.data.reading import read_rows
from hone_trainer.data.rejection import Rejected
from hone_trainer.record import Record

_SHOWN = 10
_ASKS = {"prompt": ("completion", "response", "chosen"), "instruction": ("output", "response")}
_AS_IT_STANDS = How(columns={}, system=None, join="{instruction}\n\n{input}", format=None)


def read_records(path: Path, *, answered: bool = True) -> list[Record]:
    """The records of a file, in any form of conversation that is known.

    Unless they must be `answered`, one that ends with a question gets an empty answer. Raises
    BadConfiguration when the file cannot be read, BadInput naming the bad lines otherwise.
    """
    records: list[Record] = []
    problems: list[str] = []
    for file in find_files(str(path), Path()):
        for row in read_rows(file):
            place = f"{file.name}:{row.line}"
            try:
                records.append(_conversation(row.value if answered else _completed(row.value), place))
            except Rejected as problem:
                problems.append(f"{place}: {problem}")
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise BadInput("\n       ".join([*problems[:_SHOWN], *more]))
    if not records:
        raise BadInput(f"{path}: holds no record")
    return records


def _conversation(value: Any, place: str) -> Record:
    draft = read_record(value, _AS_IT_STANDS, set())
    if draft.form in ("text", "preference"):
        raise Rejected("unknown_format", f"is no conversation with an answer, but in the form {draft.form!r}")
    return Record(draft.messages, place, tools=draft.tools)


def _completed(row: Any) -> Any:
    """A row that asks and has no answer, with an empty one."""
    if not isinstance(row, dict):
        return row
    messages = row.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        if messages[-1].get("role") in ("user", "tool"):
            return row | {"messages": [*messages, {"role": "assistant", "content": ""}]}
        return row
    for question, answers in _ASKS.items():
        if question in row and not row.keys() & set(answers):
            return row | {answers[0]: ""}
    return row
