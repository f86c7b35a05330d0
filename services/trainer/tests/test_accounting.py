"""Accepted + rejected + removed = read, whatever the files hold and however they are read.

Files are drawn at random, and a second, simpler account of them is kept here, to which each dataset
is compared row by row.
"""

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from trainer_accounting import Account, account_of

from hone_contract.artifact import Artifact
from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_trainer.data.dataset import Counting, prepare
from hone_trainer.record import Record

# A hundred datasets of files drawn at random.
pytestmark = pytest.mark.chain

BAD = {
    "{": "not_json",
    "{'prompt': 1}": "not_json",
    '{"text": NaN}': "not_json",
    '{"a": 1, "a": 2}': "duplicate_key",
    "[" * 2000: "too_deep",
    "[]": "not_an_object",
    "null": "not_an_object",
    "{}": "unknown_format",
    '{"prompt": "a"}': "unknown_format",
    '{"messages": []}': "wrong_type",
    '{"prompt": "a", "completion": 5}': "wrong_type",
    '{"messages": [{"role": "bot", "content": "a"}]}': "unknown_role",
    '{"messages": [{"role": "user", "content": "a"}]}': "no_answer",
    '{"messages": [{"role": "assistant", "content": "a"}]}': "role_order",
    '{"messages": [{"role": "tool", "tool_call_id": "x", "content": "b"}]}': "tool_order",
    '{"prompt": "a", "completion": " "}': "empty",
    '{"text": "\\u0000"}': "control_character",
    '{"text": "\\ud83d"}': "lone_surrogate",
}
IN_JSON = [line for line, reason in BAD.items() if reason not in ("not_json", "too_deep")]
"""Bad rows that leave a JSON array whole."""
FORMS = ("messages", "sharegpt", "alpaca", "response", "completion", "input", "text", "lists")
WANTED = "apple"


@dataclass(frozen=True)
class Row:
    """One line of a file."""

    kind: str
    """good, varied (other case and white space), long (near-duplicates of each other), bad or blank."""
    number: int = 0
    """Rows of one number say the same."""
    form: str = "messages"
    text: str = ""
    """Of a bad or blank line."""

    @property
    def wanted(self) -> bool:
        return self.number % 3 > 0

    @property
    def question(self) -> str:
        return self._as_varied(f"Question {self.number} of a {WANTED if self.wanted else 'pear'}?")

    @property
    def answer(self) -> str:
        long = " ".join(f"word {word}" for word in range(60)) if self.kind == "long" else "Answer"
        return self._as_varied(f"{long} {self.number}.")

    @property
    def line(self) -> str:
        return self.text if self.kind in ("bad", "blank") else json.dumps(self._fields())

    def _as_varied(self, text: str) -> str:
        return f"\n {text.upper()} ".replace(" ", "\t ") if self.kind == "varied" else text

    def _fields(self) -> dict[str, Any]:
        asked, answered = self.question, self.answer
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        said = [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]
        return {
            "messages": {"messages": turns},
            "sharegpt": {"conversations": said},
            "alpaca": {"instruction": asked, "input": "", "output": answered},
            "response": {"instruction": asked, "response": answered},
            "completion": {"prompt": asked, "completion": answered, "more": 1},
            "input": {"input": asked, "output": answered},
            "lists": {"prompt": turns[:1], "completion": turns[1:]},
            "text": {"text": f"{asked} {answered}"},
        }[self.form]


@dataclass
class Origin:
    """A source, and what is asked of it."""

    files: dict[str, list[Row]]
    filter: str | None = None
    count: int | None = None
    upsample: bool = False

    def rows(self) -> Iterator[tuple[str, Row]]:
        for name, rows in self.files.items():
            for line, row in enumerate(rows, 2 if ".json" in name and ".jsonl" not in name else 1):
                if row.kind != "blank":
                    yield f"{name}:{line}", row

    def to_spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"path": list(self.files), "count": self.count, "upsample": self.upsample}
        return spec | ({self.filter: [{"keywords": [WANTED]}]} if self.filter else {})


@dataclass
class Case:
    sources: list[Origin]
    evaluation: Origin | None
    settings: dict[str, Any]
    duplicates: bool

    @property
    def every(self) -> list[Origin]:
        return [*([self.evaluation] if self.evaluation else []), *self.sources]

    def spec(self, **more: Any) -> DataSpec:
        return DataSpec.model_validate(
            {
                "sources": [source.to_spec() for source in self.sources],
                "eval": list(self.evaluation.files) if self.evaluation else None,
                "clean": {"duplicates": self.duplicates},
                **self.settings,
                **more,
            }
        )


# -- what is drawn ---------------------------------------------------------------------------------


@st.composite
def rows(draw: st.DrawFn, bad: list[str]) -> list[Row]:
    kinds = st.sampled_from(["good"] * 7 + ["varied"] * 2 + ["bad", "blank", "long"])
    numbers, forms = st.integers(0, 20), st.sampled_from(FORMS)
    found = []
    for kind in draw(st.lists(kinds, min_size=draw(st.sampled_from([0, 3, 3, 3, 3])), max_size=12)):
        texts = bad if kind == "bad" else ["", "  ", "\t"]
        long = 100 if kind == "long" else 0
        found.append(Row(kind, draw(numbers) + long, draw(forms), draw(st.sampled_from(texts))))
    return found


@st.composite
def origins(draw: st.DrawFn, name: str, *, chosen: bool = True) -> Origin:
    files = {}
    for index, suffix in enumerate(
        draw(st.lists(st.sampled_from(["jsonl", "jsonl.gz", "json"]), min_size=1, max_size=2))
    ):
        files[f"{name}{index}.{suffix}"] = draw(rows(IN_JSON if suffix == "json" else list(BAD)))
    if not chosen:
        return Origin(files)
    wanted = draw(st.sampled_from([None, None, "include", "exclude"]))
    count = draw(st.sampled_from([None, None, 1, 2, 3, 5, 9]))
    return Origin(files, wanted, count, draw(st.sampled_from([True, True, False])))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sources = [draw(origins(name)) for name in "abc"[: draw(st.integers(1, 3))]]
    evaluation = draw(st.none() | origins("eval", chosen=False))
    return Case(
        sources,
        evaluation,
        {
            "max_rejected": draw(st.sampled_from([0.0, 0.1, 0.9, 0.9, 0.9, 0.9])),
            "eval_fraction": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9])),
            "eval_count": draw(st.none() | st.integers(1, 9)),
            "seed": draw(st.integers(0, 3)),
        },
        draw(st.booleans()),
    )


def write(case: Case, folder: Path) -> None:
    for origin in case.every:
        for name, rows_of_file in origin.files.items():
            lines = [row.line for row in rows_of_file]
            if name.endswith(".json"):
                full = [at for at, row in enumerate(rows_of_file) if row.kind != "blank"]
                lines = ["[", *(line + "," * (at in full[:-1]) for at, line in enumerate(lines)), "]"]
            content = "\n".join(lines).encode()
            (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


# -- what must become of it ------------------------------------------------------------------------


@dataclass
class Expected:
    """The second account."""

    rows: dict[str, Row] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Of what is not taken; the long rows and the drawing of samples are left out."""
    kept: list[set[str]] = field(default_factory=list)
    """Places that are left of each source before near-duplicates are removed."""


def expect(case: Case) -> Expected:
    expected = Expected()
    seen: dict[tuple[int, bool], tuple[bool, Row]] = {}
    for origin in case.every:
        learned = origin is not case.evaluation
        expected.kept.append(set())
        for place, row in origin.rows():
            expected.rows[place] = row
            reason = _reason(row, origin, seen, learned, case.duplicates)
            if reason is None:
                expected.kept[-1].add(place)
            else:
                expected.reasons[place] = reason
    return expected


def _reason(
    row: Row, origin: Origin, seen: dict[tuple[int, bool], tuple[bool, Row]], learned: bool, duplicates: bool
) -> str | None:
    if row.kind == "bad":
        return BAD[row.text]
    if (origin.filter == "include" and not row.wanted) or (origin.filter == "exclude" and row.wanted):
        return "filtered"
    key = (row.number, row.form == "text")
    if key not in seen:
        seen[key] = (learned, row)
        return None
    first_learned, first = seen[key]
    if learned and not first_learned:
        return "eval_leak"
    if not duplicates:
        return None
    return "exact_duplicate" if row.kind == first.kind else "normalised_duplicate"


def refusal(case: Case, expected: Expected) -> str | None:
    """Words of the error that must come, when it does not hang on near-duplicates."""
    if any(not list(origin.rows()) for origin in case.every):
        return "holds no record"
    bad = sum(row.kind == "bad" for row in expected.rows.values())
    if bad / len(expected.rows) > case.settings["max_rejected"]:
        return f"{bad} of {len(expected.rows)} records are bad"
    for origin, kept in zip(case.sources, expected.kept[-len(case.sources) :], strict=True):
        if origin.count and origin.count > len(kept) and not (origin.upsample and kept):
            return f"has {len(kept)} good records, {origin.count} are wanted"
    return None if any(expected.kept[-len(case.sources) :]) else "no record is left to learn from"


@given(cases())
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_every_row_of_any_files_is_accounted_for(case: Case) -> None:
    expected = expect(case)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(case, folder)
        check_strict(case, expected, folder)
        told = refusal(case, expected)
        near = any(row.kind == "long" for row in expected.rows.values())
        try:
            account = account_of(prepared(case.spec(), folder))
        except BadInput as error:
            # Near-duplicates may leave fewer records than this account says.
            of_too_few = "are wanted" in str(error) or "no record is left" in str(error)
            assert (told is not None and told in str(error)) or (near and of_too_few), error
            event("refused")
            return
        assert told is None
        event("taken")
        check(case, expected, account)


def prepared(data: DataSpec, folder: Path) -> Artifact:
    return prepare(data, folder, Store(folder / "store"), Counting(None, None, 2048), Reporter("trainer"))


def check_strict(case: Case, expected: Expected, folder: Path) -> None:
    """Taken strictly, the first bad row refuses the data."""
    first = next((place for place, row in expected.rows.items() if row.kind == "bad"), None)
    if first is not None:
        with pytest.raises(BadInput) as caught:
            prepared(case.spec(strict=True), folder)
        assert str(caught.value).startswith(f"{first}: ")


def check(case: Case, expected: Expected, account: Account) -> None:
    taken = account.records
    assert taken.keys() | account.reasons.keys() == expected.rows.keys()
    for place, row in expected.rows.items():
        reason = account.reasons.get(place)
        if reason in ("not_sampled", "near_duplicate") or (reason == "eval_leak" and row.kind == "long"):
            assert expected.reasons.get(place) in (None, reason)
        else:
            assert reason == expected.reasons.get(place)
        if reason is None:
            check_content(row, taken[place])
    for origin, told in zip(case.every, account.report["sources"], strict=True):
        check_source(case, origin, account, told)
    check_split(case, account)


def check_content(row: Row, record: Record) -> None:
    asked, answered = (text.strip() for text in (row.question, row.answer))
    if row.form == "text":
        assert record.text == f"{row.question} {row.answer}".strip()
    else:
        assert [message["content"] for message in record.messages] == [asked, answered]


def check_source(case: Case, origin: Origin, account: Account, told: dict[str, Any]) -> None:
    """The report's numbers of one source are those of its rows in the files."""
    places = {place for place, _ in origin.rows()}
    times = Counter(record.source for record in account.train if record.source in places)
    aside = {record.source for record in account.eval if record.source in places}
    assert told["read"] == len(places)
    assert told["accepted"] == len(times.keys() | aside)
    assert told["repeated"] == times.total() - len(times)
    assert max(times.values(), default=0) - min(times.values(), default=0) <= 1
    reasons = Counter(reason for place, reason in account.reasons.items() if place in places)
    assert Counter(told["rejected"]) + Counter(told["removed"]) == reasons
    if origin.count is not None:
        assert told["accepted"] + told["repeated"] == origin.count
    if "not_sampled" in reasons:
        # Of the evaluation's own files, as many as are wanted of them.
        wanted = case.settings["eval_count"] if origin is case.evaluation else origin.count
        assert told["accepted"] == wanted and told["repeated"] == 0
    assert origin is not case.evaluation or not times


def check_split(case: Case, account: Account) -> None:
    if case.evaluation is not None:
        places = {place for place, _ in case.evaluation.rows()}
        assert {record.source for record in account.eval} <= places
    elif case.settings["eval_count"] is not None:
        # Copies that are kept go to one side together.
        assert len(account.eval) <= case.settings["eval_count"] or not case.duplicates
    elif case.settings["eval_fraction"] == 0:
        assert not account.eval
    assert account.train
