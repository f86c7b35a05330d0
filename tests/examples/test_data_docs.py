"""Every example of docs/data.md does what the page says."""

import json
import re
from pathlib import Path

import pytest

from hone_contract.artifact import Artifact
from hone_contract.data_spec import CleanSpec, DataSpec
from hone_contract.store import Store
from hone_trainer.data.rejection import REMOVALS, Reason, Removal
from hone_trainer.plan import prepare_data
from hone_trainer.record import load_records

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.M | re.S)


def _examples() -> dict[str, dict[str, str]]:
    """Files by the heading that they stand under."""
    sections = re.split(r"^##+ ", PAGE, flags=re.M)[1:]
    found = {section.partition("\n")[0]: dict(_BLOCK.findall(section)) for section in sections}
    return {heading: files for heading, files in found.items() if files}


EXAMPLES = _examples()


def _prepare(folder: Path, heading: str) -> Artifact:
    for name, text in EXAMPLES[heading].items():
        (folder / name).write_text(text, encoding="utf-8")
    _, dataset = prepare_data(folder / "run.yaml", None, Store(folder / "store"))
    return dataset


@pytest.mark.parametrize("heading", EXAMPLES)
def test_an_example_becomes_what_the_page_says(heading: str, tmp_path: Path) -> None:
    dataset = _prepare(tmp_path, heading)
    first = load_records(dataset.path / "train.jsonl")[0]
    if "result" in EXAMPLES[heading]:
        assert first.messages == json.loads(EXAMPLES[heading]["result"])
    report = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    assert report["accepted"] + report["rejected"] + report["removed"] == report["read"] > 0


def test_most_headings_have_an_example() -> None:
    assert len(EXAMPLES) >= 12


def test_the_example_of_bad_rows_shows_each_kind(tmp_path: Path) -> None:
    dataset = _prepare(tmp_path, "What is rejected, and what is removed")
    removed = [json.loads(line) for line in (dataset.path / "removed.jsonl").open(encoding="utf-8")]
    rejected = [json.loads(line) for line in (dataset.path / "rejected.jsonl").open(encoding="utf-8")]
    assert [row["reason"] for row in removed] == ["exact_duplicate", "normalised_duplicate"]
    assert [row["of"] for row in removed] == ["examples.jsonl:1"] * 2
    assert [(row["line"], row["reason"]) for row in rejected] == [(4, "wrong_type")]


def test_every_reason_is_on_the_page() -> None:
    for reason in (*Reason.__args__, *REMOVALS):
        assert f"`{reason}`" in PAGE, reason
    assert REMOVALS == Removal.__args__


def test_every_setting_is_on_the_page() -> None:
    for name in {*DataSpec.model_fields, *CleanSpec.model_fields} - {"clean"}:
        assert re.search(rf"`[^`]*\b{name}\b|^ *{name}:|[{{ ]{name}:", PAGE, re.M), name
