"""Other versions of a published model, made in seconds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.probes import read_probes, write_probes
from hone_contract.store import Store
from hone_merger.streaming import score_all, streamed

WEIGHTS = "model.safetensors"


def weaker_version(store: Store, name: str, share: float = 0.6) -> Artifact:
    """The live version with a share of what tuning changed, proven with probes of its own."""

    def weaken(model: Artifact, folder: Path) -> None:
        base = store.base(model.manifest.lineage["base"].id)
        _mix(base / WEIGHTS, model.path / WEIGHTS, folder / WEIGHTS, share)
        probes = read_probes(folder)
        scores = score_all(streamed(folder), probes.texts)
        changed = [
            probe.model_copy(update={"adapter": each, "merged": each})
            for probe, each in zip(probes.probes, scores, strict=True)
        ]
        write_probes(folder, probes.model_copy(update={"probes": changed}))

    return changed_version(store, name, f"weaker-{share:g}", weaken)


def changed_version(
    store: Store, name: str, version: str, change: Callable[[Artifact, Path], None]
) -> Artifact:
    """A copy of the live version that `change(live version, copy's folder)` has changed, sealed."""
    live = store.read_live(name)
    assert live is not None
    model = open_artifact(store.model(name, live), "model")
    with draft(store.model(name, version), version) as partial:
        for entry in model.manifest.files:
            shutil.copyfile(model.path / entry.path, partial / entry.path)
        change(model, partial)
        return seal(partial, "model", f"{name}/{version}", lineage=model.manifest.lineage)


def _mix(base: Path, tuned: Path, target: Path, share: float) -> None:
    mixed = {}
    with safe_open(base, "pt") as before, safe_open(tuned, "pt") as after:
        for name in after.keys():
            weights = torch.lerp(before.get_tensor(name).float(), after.get_tensor(name).float(), share)
            mixed[name] = weights.to(after.get_tensor(name).dtype)
    save_file(mixed, target, metadata={"format": "pt"})
