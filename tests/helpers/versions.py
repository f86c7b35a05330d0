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


def base_in_disguise(store: Store, name: str) -> Artifact:
    """The base's weights as a version of the model: its files are in order, and only what it says tells."""

    def disguise(model: Artifact, folder: Path) -> None:
        base = store.base(model.manifest.lineage["base"].id)
        shutil.copyfile(base / WEIGHTS, folder / WEIGHTS)

    return changed_version(store, name, "base", disguise)


def changed_version(
    store: Store, name: str, version: str, change: Callable[[Artifact, Path], None]
) -> Artifact:
    """A copy of the live version that `change(live version, copy's folder)` has changed, sealed."""
    live = store.read_live(name)
    assert live is not None
    return changed_copy(open_artifact(store.model(name, live), "model"), version, change)


def changed_copy(source: Artifact, name: str, change: Callable[[Artifact, Path], None]) -> Artifact:
    """The same of any artifact, beside it under another name."""
    with draft(source.path.with_name(name), name) as partial:
        for entry in source.manifest.files:
            shutil.copyfile(source.path / entry.path, partial / entry.path)
        change(source, partial)
        group, slash, _ = source.manifest.id.rpartition("/")
        manifest = source.manifest
        return seal(partial, manifest.kind, f"{group}{slash}{name}", lineage=manifest.lineage)


def flip_a_bit(file: Path) -> None:
    """In the middle of the file."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 1]))


def _mix(base: Path, tuned: Path, target: Path, share: float) -> None:
    mixed = {}
    with safe_open(base, "pt") as before, safe_open(tuned, "pt") as after:
        for name in after.keys():
            weights = torch.lerp(before.get_tensor(name).float(), after.get_tensor(name).float(), share)
            mixed[name] = weights.to(after.get_tensor(name).dtype)
    save_file(mixed, target, metadata={"format": "pt"})
