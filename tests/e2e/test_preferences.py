"""A model learns for real which of two answers is better; it is fused and served as any other."""

from pathlib import Path

import pytest
import yaml
from chain import ROOT, Demo, base_copy, command, hone_server

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.probes import mean_delta, read_probes
from hone_contract.store import Store

pytestmark = pytest.mark.chain

BASE = "demo:smollm2-135m-instruct"
EXAMPLE = ROOT / "examples" / "preferences"
FEW = {"max_steps": 4, "learning_rate": 2e-4}


@pytest.fixture(scope="module")
def store(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return base_copy(demo, tmp_path_factory.mktemp("preferences") / "store", BASE)


@pytest.fixture(scope="module")
def adapter(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Of the example, in a few larger steps."""
    spec = yaml.safe_load((EXAMPLE / "run.yaml").read_text(encoding="utf-8"))
    spec["training"] |= FEW
    spec["data"] = {name: str(EXAMPLE / file) for name, file in spec["data"].items()} | {"eval_count": 4}
    file = tmp_path_factory.mktemp("spec") / "run.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return open_artifact(store.adapter(command("hone_trainer", store, "train", str(file))), "adapter")


def test_of_pairs_that_it_never_saw_it_prefers_the_better_answer(adapter: Artifact) -> None:
    metrics = adapter.manifest.metrics
    assert metrics["eval_loss_before"] == pytest.approx(0.6931, abs=1e-3)
    assert metrics["eval_loss_after"] < 0.6
    assert metrics["eval_reward_margin"] > 0.2
    assert metrics["eval_reward_accuracy"] >= 0.75
    probes = read_probes(adapter.path).probes
    assert mean_delta([probe.adapter for probe in probes], [probe.base for probe in probes]) > 0.01


@pytest.fixture(scope="module")
def model(adapter: Artifact, store: Store) -> str:
    return command("hone_merger", store, "merge", adapter.manifest.id)


def test_it_is_fused_as_any_other(model: str, store: Store) -> None:
    folder = store.root / "models" / model
    assert open_artifact(folder, "model", digests=True).manifest.lineage.keys() >= {"adapter", "base"}
    assert all(probe.merged for probe in read_probes(folder).probes)


@pytest.mark.full
def test_it_is_served_as_what_was_trained(model: str, store: Store, tmp_path: Path) -> None:
    name = model.partition("/")[0]
    with hone_server(store.root, tmp_path / "log", "--model", name) as server:
        assert server.wait_until_ready()["gate"]["passed"] is True  # type: ignore[index]
