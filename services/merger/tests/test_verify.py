"""A model that was merged is looked at once more, with what it was made from and without."""

import json
import shutil
from pathlib import Path

import pytest
from merger_cli import run_merger
from merger_tiny import HUB_NAME, seal_base
from merger_weights import seal_weights, weights_folder
from safetensors.torch import load_file, save_file

from hone_contract.artifact import FILE_NAME, Artifact, draft, seal
from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_contract.probes import read_probes, write_probes
from hone_contract.store import Store
from hone_merger.merge import merge
from hone_merger.plan import Dtype, make_plan
from hone_merger.verify import verify

pytestmark = pytest.mark.chain

REPORTER = Reporter("merger")


def merged(store: Store, run_id: str, dtype: Dtype | None = None) -> Artifact:
    plan = make_plan(store, run_id, "sky", dtype=dtype)
    model = merge(plan, store, REPORTER)
    store.point_live("sky", plan.version)
    return model


def resealed(model: Artifact, change: str) -> Artifact:
    """The model with other weights or probes, and a seal that says it is whole."""
    copy = model.path.with_name("copy")
    shutil.copytree(model.path, copy)
    (copy / FILE_NAME).unlink()
    if change == "weights":
        tensors = load_file(copy / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.weight"] += 0.5
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    else:
        probes = read_probes(copy)
        moved = [
            probe.model_copy(update={"merged": [value - 0.1 for value in probe.merged or []]})
            for probe in probes.probes
        ]
        write_probes(copy, probes.model_copy(update={"probes": moved}))
    with draft(model.path.with_name("changed"), {}) as partial:
        shutil.copytree(copy, partial, dirs_exist_ok=True)
        return seal(partial, "model", "sky/changed", lineage=model.manifest.lineage)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_model_is_what_was_merged(filled: Store, adapter: Artifact, dtype: Dtype | None) -> None:
    model = merged(filled, adapter.manifest.id, dtype)
    found = verify(model, filled, REPORTER)
    assert found["recomputed"] == 8
    assert found["probes"] == len(read_probes(model.path).probes)
    assert found["mean_delta_from_recorded"] == pytest.approx(0, abs=1e-5)
    assert "not_recomputed" not in found


def test_whole_weights_too(filled: Store, base: Artifact, tmp_path: Path) -> None:
    tuned = seal_weights(weights_folder(tmp_path / "tuned", base.path), base, filled, "whole-0123456789")
    model = merged(filled, tuned.manifest.id)
    assert verify(model, filled, REPORTER)["compared"] == 1
    with pytest.raises(BadInput, match="its weights are not those of"):
        verify(resealed(model, "weights"), filled, REPORTER)


def test_with_another_base_nothing_is_recomputed(
    filled: Store, adapter: Artifact, base: Artifact, llama: Path
) -> None:
    model = merged(filled, adapter.manifest.id)
    shutil.rmtree(base.path)
    seal_base(llama, filled, HUB_NAME)
    found = verify(model, filled, REPORTER)
    assert "is not the one that the model was made from" in str(found["not_recomputed"])


@pytest.mark.parametrize(
    ("change", "told"), [("weights", "is not the base's and the adapter's"), ("probes", "away from those")]
)
def test_a_model_that_was_changed_and_sealed_again_is_found(
    filled: Store, adapter: Artifact, change: str, told: str
) -> None:
    changed = resealed(merged(filled, adapter.manifest.id), change)
    with pytest.raises(BadInput, match=told):
        verify(changed, filled, REPORTER)


def test_without_what_it_was_made_from_the_probes_still_judge(filled: Store, adapter: Artifact) -> None:
    model = merged(filled, adapter.manifest.id)
    shutil.rmtree(adapter.path)
    found = verify(model, filled, REPORTER)
    assert adapter.manifest.id in str(found["not_recomputed"])
    with pytest.raises(BadInput, match="away from those"):
        verify(resealed(model, "probes"), filled, REPORTER)


def test_the_command_prints_what_was_found(tmp_path: Path, filled: Store, adapter: Artifact) -> None:
    merged(filled, adapter.manifest.id)
    outcome = run_merger(tmp_path, "verify", "sky")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["recomputed"] == 8


def test_a_byte_that_changed_is_found(tmp_path: Path, filled: Store, adapter: Artifact) -> None:
    model = merged(filled, adapter.manifest.id)
    path = model.path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    outcome = run_merger(tmp_path, "verify", f"sky/{adapter.manifest.id}")
    assert (outcome.code, outcome.out) == (65, "")
    assert "model.safetensors" in outcome.err
