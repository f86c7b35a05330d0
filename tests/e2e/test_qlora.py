"""A base in 4 bits, trained for real on the CPU; what comes of it is fused and served as any other."""

import json
from pathlib import Path

import httpx
import pytest
from chain import ROOT, Demo, base_copy, command, hone_server

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.probes import mean_delta, read_probes
from hone_contract.store import Store

pytestmark = pytest.mark.chain

BASE = "demo:smollm2-135m-instruct"
DATA = ROOT / "examples" / "hone-faq"
SPEC = f"""\
name: in-four-bits
model: {{name: {BASE}}}
method: qlora
data: {{train: {DATA / "train.jsonl"}, eval_count: 8}}
training: {{max_steps: 8, batch_size: 8, learning_rate: 1e-3, optimizer: adamw_8bit}}
"""


@pytest.fixture(scope="module")
def store(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return base_copy(demo, tmp_path_factory.mktemp("qlora") / "store", BASE)


@pytest.fixture(scope="module")
def adapter(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    spec = tmp_path_factory.mktemp("spec") / "run.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    return open_artifact(store.adapter(command("hone_trainer", store, "train", str(spec))), "adapter")


def test_it_learns(adapter: Artifact) -> None:
    metrics = adapter.manifest.metrics
    assert metrics["eval_loss_after"] < 0.8 * metrics["eval_loss_before"]
    assert adapter.manifest.tools["bitsandbytes"]


def test_its_probes_have_the_model_as_it_was_trained(adapter: Artifact) -> None:
    probes = read_probes(adapter.path)
    assert probes.trained_in_4_bits
    on_the_base_as_it_is = [probe.adapter for probe in probes.probes]
    assert mean_delta([probe.trained or [] for probe in probes.probes], on_the_base_as_it_is) > 0.01


def test_it_is_fused_and_served_as_what_was_trained(adapter: Artifact, store: Store, tmp_path: Path) -> None:
    model = command("hone_merger", store, "merge", adapter.manifest.id)
    config = json.loads((store.root / "models" / model / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    report = json.loads((store.root / "models" / model / "merge_report.json").read_text(encoding="utf-8"))
    distances = report["weights"]["mean_delta_from_trained"]
    # bitsandbytes' own layers trained it; what is left between them and the model is bfloat16.
    assert report["weights"]["base_weights"] == "dequantized"
    assert distances["dequantized"] < 0.25 * distances["original"]
    with hone_server(store.root, tmp_path / "log", "--model", "in-four-bits") as server:
        ready = server.wait_until_ready()
        assert ready["gate"]["passed"] is True  # type: ignore[index]
        answer = httpx.post(
            f"{server.url}/v1/chat/completions",
            json={"model": "in-four-bits", "messages": [{"role": "user", "content": "What is Hone?"}]},
            timeout=60,
        )
    assert answer.json()["choices"][0]["message"]["content"]
