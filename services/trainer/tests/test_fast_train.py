"""`FAST_TRAIN=1`: what of a run is cut, and that it is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from trainer_cli import refusal, run_trainer
from trainer_hub import Hub
from trainer_tiny import questions, write_lines

from hone_contract.artifact import open_artifact
from hone_contract.data_spec import DataSpec, SourceSpec
from hone_contract.errors import BadConfiguration
from hone_contract.events import Event, Reporter
from hone_contract.run_spec import ModelSpec, RunSpec, TrainingSpec
from hone_contract.store import Store
from hone_trainer.data.sources import share_out
from hone_trainer.fast_train import RECORDS, STEPS, is_fast, shorten
from hone_trainer.plan import Plan, make_plan

SEVERAL = 80


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAST_TRAIN", raising=False)


# -- the variable ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "fast"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_one_asks_for_it(value: str | None, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("FAST_TRAIN", value)
    assert is_fast() is fast


@pytest.mark.parametrize("value", ["2", "true", "yes", " 1", "-1"])
def test_any_other_value_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAST_TRAIN", value)
    with pytest.raises(BadConfiguration, match=f"FAST_TRAIN: {value!r} is neither 0 nor 1"):
        is_fast()


def test_the_command_refuses_it_before_anything_heavy(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", questions(3))
    (tmp_path / "run.yaml").write_text("model: {name: demo:smollm2-135m-instruct}\n", encoding="utf-8")
    done = run_trainer(tmp_path, "train", "run.yaml", "--data", "data.jsonl", FAST_TRAIN="on")
    assert "FAST_TRAIN: 'on' is neither 0 nor 1" in refusal(done, 78)
    assert not (tmp_path / "store").exists()


# -- what is cut -----------------------------------------------------------------------------------


def _shorten(data: DataSpec, training: TrainingSpec | None = None) -> tuple[RunSpec, DataSpec]:
    spec = RunSpec(model=ModelSpec(name="tiny"), data=data, training=training or TrainingSpec())
    return shorten(spec, data, Reporter("trainer"))


@pytest.mark.parametrize(("own", "most"), [(None, RECORDS), (10, 10), (1000, RECORDS)])
def test_records_are_few(own: int | None, most: int) -> None:
    spec, data = _shorten(DataSpec(train="x", max_records=own))
    assert data.max_records == most
    assert spec.data == data


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({}, STEPS),
        ({"max_steps": 7}, 7),
        ({"max_steps": 5000}, STEPS),
        # The epochs of 64 records would be over sooner.
        ({"epochs": 1, "batch_size": 8}, None),
        ({"epochs": 0.5, "batch_size": 2, "gradient_accumulation_steps": 8}, None),
        ({"epochs": 3, "batch_size": 128}, None),
    ],
)
def test_steps_are_few(training: dict[str, Any], steps: int | None) -> None:
    spec, _ = _shorten(DataSpec(train="x"), TrainingSpec(**training))
    assert spec.training == TrainingSpec(**training).model_copy(update={"max_steps": steps})


def test_what_a_little_data_could_not_meet_is_not_asked_of_it() -> None:
    _, data = _shorten(DataSpec(train="x", min_records=500, eval_count=1000))
    assert data.min_records == 1
    assert (data.eval_count or 0) < RECORDS / 2


def test_files_for_evaluation_are_read_and_few_records_are_taken() -> None:
    _, data = _shorten(DataSpec(train="x", eval="y"))
    assert data.eval == "y"
    assert 0 < (data.eval_count or 0) < RECORDS / 2
    _, without = _shorten(DataSpec(train="x"))
    assert without.eval_count is None


def test_a_mix_stays_a_mix_and_reads_little_of_each_stream() -> None:
    sources = [
        SourceSpec(path="mine.json", weight=0.5, upsample=True),
        SourceSpec(hub="some/weighted", weight=0.5),
        SourceSpec(hub="some/counted", count=5000),
        SourceSpec(path="few.json", count=3),
    ]
    _, data = _shorten(DataSpec(sources=sources, total=240_000))
    assert share_out(data.sources, data.total) == [RECORDS // 2, RECORDS // 2, RECORDS, 3]
    assert [source.name for source in data.sources] == [source.name for source in sources]


def test_a_stream_without_a_share_is_not_read_to_its_end() -> None:
    _, data = _shorten(DataSpec(sources=[SourceSpec(hub="some/whole"), SourceSpec(path="whole.json")]))
    assert [source.count for source in data.sources] == [RECORDS, None]
    assert data.max_records == RECORDS


def test_what_was_cut_can_be_read_from_a_file_again() -> None:
    """evaluate and generate do so, from the run's own spec."""
    sources = [SourceSpec(path="a", weight=1), SourceSpec(hub="b/b", count=900)]
    spec, _ = _shorten(DataSpec(sources=sources, total=1000, eval="e", eval_fraction=0, min_records=100))
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


# -- a run -----------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path, qwen_folder: Path, store: Store) -> Plan:
    return _plan(tmp_path, qwen_folder, store, "")


def _plan(folder: Path, base: Path, store: Store, training: str, *, count: int = SEVERAL) -> Plan:
    (folder / "run.yaml").write_text(f"model: {{name: {base}}}\n{training}", encoding="utf-8")
    return make_plan(folder / "run.yaml", write_lines(folder / "data.jsonl", _distinct(count)), store)


def _distinct(count: int) -> list[str]:
    words = "red green blue grey pink brown black white gold teal".split()
    asked = [f"{a} {b} {c}" for a in words for b in words for c in words]
    return [json.dumps({"prompt": f"Is {each} a colour?", "completion": each}) for each in asked[:count]]


def _told(err: str) -> Event:
    [event] = [Event.model_validate_json(line) for line in err.splitlines() if '"fast_train"' in line]
    return event


def test_a_fast_run_is_another_one_and_says_what_it_is(
    plan: Plan,
    tmp_path: Path,
    qwen_folder: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "fast_train" not in capsys.readouterr().err
    monkeypatch.setenv("FAST_TRAIN", "1")
    fast = _plan(tmp_path, qwen_folder, store, "")
    event = _told(capsys.readouterr().err)
    assert event.level == "warning"
    assert event.data == {"cut": ["data.max_records 64", "training.max_steps 20"]}
    assert "data.max_records 64, training.max_steps 20; unset it to train in full" in event.message
    report = json.loads((fast.dataset.path / "report.json").read_bytes())
    assert report["train_records"] + report["eval_records"] == RECORDS
    assert report["sources"][0]["removed"] == {"not_sampled": SEVERAL - RECORDS}
    assert fast.spec.training.max_steps == STEPS
    assert fast.run_id != plan.run_id
    assert fast.lineage["spec"].digest != plan.lineage["spec"].digest


def test_a_fast_run_of_little_data_and_few_steps_is_another_one_too(
    tmp_path: Path, qwen_folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sealed result always says that it came of FAST_TRAIN, for its dataset does."""
    short = "training: {max_steps: 2}\n"
    real = _plan(tmp_path, qwen_folder, store, short, count=12)
    monkeypatch.setenv("FAST_TRAIN", "1")
    fast = _plan(tmp_path, qwen_folder, store, short, count=12)
    assert fast.spec.training == real.spec.training
    assert fast.run_id != real.run_id


def test_zero_is_the_run_itself(
    plan: Plan, tmp_path: Path, qwen_folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAST_TRAIN", "0")
    assert _plan(tmp_path, qwen_folder, store, "").run_id == plan.run_id


@pytest.mark.chain
def test_a_stream_is_read_for_some_rows_only(hub: Hub, tmp_path: Path, store: Store) -> None:
    hub.kind, hub.repository = "datasets", "some/large"
    hub.files = {"train.jsonl": "".join(f"{line}\n" for line in _distinct(1000)).encode()}
    spec = {"model": {"name": "some/base"}, "data": {"sources": [{"hub": "some/large"}]}}
    (tmp_path / "run.json").write_text(json.dumps(spec), encoding="utf-8")
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "hf"), "FAST_TRAIN": "1"}
    done = run_trainer(tmp_path, "prepare", "run.json", **environment)
    assert done.code == 0, done.err
    assert "64 of some/large" in _told(done.err).message
    dataset = open_artifact(store.dataset(done.out.strip()), "dataset")
    report = json.loads((dataset.path / "report.json").read_bytes())
    assert report["read"] < 200
    assert report["train_records"] + report["eval_records"] == RECORDS
