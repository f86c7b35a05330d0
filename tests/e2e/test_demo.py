"""The main job: from nothing to a model that learned, proven and served."""

import os

import pytest
from chain import Demo

from hone_contract.artifact import open_artifact
from hone_contract.spec_file import load_run_spec

pytestmark = pytest.mark.chain


def test_the_tuned_model_learned_what_the_base_does_not_know(demo: Demo) -> None:
    assert demo.results["questions"] >= 40
    assert demo.results["base_accuracy"] <= 0.15
    assert demo.results["tuned_accuracy"] >= 0.80
    assert demo.results["eval_loss_after"] < demo.results["eval_loss_before"] / 2


def test_what_is_served_is_what_was_merged(demo: Demo) -> None:
    assert demo.results["gate"]["passed"]
    assert demo.results["gate"]["dtype"] == "float32"
    assert demo.results["parity_max_abs_delta"] <= 0.01
    assert demo.results["gate"]["mean_abs_delta_from_base"] > 0.1


def test_every_stage_is_timed(demo: Demo) -> None:
    stages = {"import", "prepare", "train", "merge", "ask_base", "serve", "ask_tuned"}
    assert demo.results["seconds"].keys() == stages


def test_ci_trains_and_merges_for_real(demo: Demo) -> None:
    assert demo.results["reused"] == [] or not os.environ.get("CI")


def test_the_lineage_leads_from_the_model_to_the_dataset(demo: Demo) -> None:
    name, version = demo.results["model"].split("/")
    model = open_artifact(demo.store.model(name, version), "model", digests=True).manifest
    adapter = open_artifact(demo.store.adapter(model.lineage["adapter"].id), "adapter", digests=True).manifest
    base = open_artifact(demo.store.base(model.lineage["base"].id), "base", digests=True).manifest
    dataset = open_artifact(demo.store.dataset(adapter.lineage["dataset"].id), "dataset").manifest
    assert model.lineage["adapter"].digest == adapter.digest
    assert model.lineage["base"].digest == adapter.lineage["base"].digest == base.digest
    assert adapter.lineage["dataset"].digest == dataset.digest


def test_the_run_left_its_diary(demo: Demo) -> None:
    run = demo.store.run(demo.results["model"].split("/")[1])
    assert load_run_spec(run / "spec.yaml").training.epochs > 0
    assert '"eval_loss"' in (run / "metrics.jsonl").read_text()
    assert '"succeeded"' in (run / "status.json").read_text()
    assert '"trained"' in (run / "events.jsonl").read_text()


def test_only_safetensors_cross_the_boundaries(demo: Demo) -> None:
    """The optimizer's state in a run's own checkpoints is not handed over."""
    files = [
        path for path in demo.store.root.rglob("*") if path.is_file() and "checkpoints" not in path.parts
    ]
    suffixes = {path.suffix for path in files}
    assert ".safetensors" in suffixes
    assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".py"}
