"""The sealed dataset: its split, its name, and that nothing is written of a bad file."""

import json
from pathlib import Path

import pytest
from trainer_tiny import questions, write_lines

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.store import Store
from hone_trainer.dataset import prepare
from hone_trainer.record import load_records


def sources(dataset: Artifact, name: str) -> list[str]:
    """Where the records of one part came from."""
    return [record.source for record in load_records(dataset.path / f"{name}.jsonl")]


def lines(name: str, *numbers: int) -> list[str]:
    return [f"{name}:{number}" for number in numbers]


def test_every_record_is_in_one_part_and_keeps_its_order(store: Store, data_file: Path) -> None:
    dataset = prepare(DataSpec(train="data.jsonl", eval_fraction=0.25), data_file.parent, store)
    train, evaluation = sources(dataset, "train"), sources(dataset, "eval")
    assert (len(train), len(evaluation)) == (18, 6)
    everything = lines("data.jsonl", *range(1, 25))
    assert sorted(train + evaluation) == sorted(everything)
    assert train == [each for each in everything if each in train]
    assert evaluation == [each for each in everything if each in evaluation]


def test_the_split_is_the_same_every_time_and_another_with_another_seed(
    tmp_path: Path, data_file: Path
) -> None:
    def held_out(store: str, seed: int) -> list[str]:
        data = DataSpec(train="data.jsonl", eval_fraction=0.25, seed=seed)
        return sources(prepare(data, data_file.parent, Store(tmp_path / store)), "eval")

    assert held_out("one", 42) == held_out("two", 42)
    assert held_out("one", 42) != held_out("one", 43)


@pytest.mark.parametrize(
    ("records", "fraction", "evaluated"),
    [(1, 0.1, 0), (1, 0.9, 0), (2, 0.1, 1), (2, 0.9, 1), (10, 0.99, 9), (10, 0.25, 2), (4, 0.0, 0)],
)
def test_something_is_left_to_learn_and_if_possible_to_be_judged_by(
    tmp_path: Path, store: Store, records: int, fraction: float, evaluated: int
) -> None:
    write_lines(tmp_path / "data.jsonl", questions(records))
    dataset = prepare(DataSpec(train="data.jsonl", eval_fraction=fraction), tmp_path, store)
    assert len(sources(dataset, "eval")) == evaluated
    assert len(sources(dataset, "train")) == records - evaluated


def test_an_evaluation_file_is_taken_whole_and_nothing_is_set_aside(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "data.jsonl", questions(6))
    write_lines(tmp_path / "held_out.jsonl", questions(2))
    data = DataSpec(train="data.jsonl", eval="held_out.jsonl", eval_fraction=0.5)
    dataset = prepare(data, tmp_path, store)
    assert sources(dataset, "train") == lines("data.jsonl", 1, 2, 3, 4, 5, 6)
    assert sources(dataset, "eval") == lines("held_out.jsonl", 1, 2)
    assert dataset.manifest.lineage.keys() == {"train", "eval"}


def test_a_dataset_is_sealed_with_a_report_and_where_it_came_from(store: Store, data_file: Path) -> None:
    made = prepare(DataSpec(train="data.jsonl"), data_file.parent, store)
    dataset = open_artifact(store.dataset(made.manifest.id), "dataset", digests=True)
    assert dataset.manifest.id.startswith("data-")
    assert dataset.manifest.lineage["train"].id == "data.jsonl"
    report = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    assert report == {"train_records": 22, "eval_records": 2}


def test_preparing_twice_writes_once(store: Store, data_file: Path) -> None:
    data = DataSpec(train="data.jsonl")
    first = prepare(data, data_file.parent, store)
    written = (first.path / "train.jsonl").stat().st_mtime_ns
    assert prepare(data, data_file.parent, store) == first
    assert (first.path / "train.jsonl").stat().st_mtime_ns == written


def test_other_content_or_another_split_is_another_dataset(store: Store, data_file: Path) -> None:
    def name(**how: object) -> str:
        data = DataSpec.model_validate({"train": "data.jsonl", **how})
        return prepare(data, data_file.parent, store).manifest.id

    ids = [name(), name(seed=1), name(eval_fraction=0.5)]
    write_lines(data_file, questions(23))
    ids.append(name())
    write_lines(data_file.with_name("more.jsonl"), questions(1))
    ids.append(name(eval="more.jsonl"))
    assert len(set(ids)) == 5


def test_the_name_comes_from_the_file_and_fits_the_store(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "Meine Daten (2).jsonl", questions(2))
    write_lines(tmp_path / "データ.jsonl", questions(2))
    named = prepare(DataSpec(train="Meine Daten (2).jsonl"), tmp_path, store).manifest.id
    assert named.rpartition("-")[0] == "meine-daten-2"
    assert prepare(DataSpec(train="データ.jsonl"), tmp_path, store).manifest.id.startswith("data-")


@pytest.mark.parametrize("bad", ["train", "eval"])
def test_nothing_is_written_when_a_record_is_bad(tmp_path: Path, store: Store, bad: str) -> None:
    for name in ("train", "eval"):
        write_lines(tmp_path / f"{name}.jsonl", questions(3) + ["{"] * (name == bad))
    with pytest.raises(BadInput, match=rf"{bad}\.jsonl:4: not JSON"):
        prepare(DataSpec(train="train.jsonl", eval="eval.jsonl"), tmp_path, store)
    assert not store.root.exists()


def test_nothing_is_written_when_the_evaluation_file_is_missing(store: Store, data_file: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"none\.jsonl: cannot be read"):
        prepare(DataSpec(train="data.jsonl", eval="none.jsonl"), data_file.parent, store)
    assert not store.root.exists()
