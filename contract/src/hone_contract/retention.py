"""What may go from a store, by a policy, and why."""

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hone_contract.artifact import PARTIAL, Artifact, open_artifact
from hone_contract.errors import HoneError
from hone_contract.manifest import Kind
from hone_contract.store import Store

_MADE: tuple[Kind, ...] = ("model", "adapter", "weights")
_SOURCES: tuple[Kind, ...] = ("dataset", "base")


@dataclass(frozen=True)
class Policy:
    """What stays."""

    keep: int = 3
    """How many of the newest stay: models of a name, adapters and weights of a run's name."""
    partial_hours: float = 24.0
    """How long what a killed writer left stays, so that its work can be gone on with."""
    sources: bool = False
    """Whether bases, datasets and cached tokens go too that nothing that stays was made from."""


@dataclass(frozen=True)
class Doomed:
    """Something that may go."""

    path: Path
    size: int
    """Bytes."""
    why: str


def find_doomed(store: Store, policy: Policy) -> list[Doomed]:
    """Everything that the policy lets go, in the order in which it should: what was made before its sources.

    What is live stays, what a run goes on from, and what they were made from; and so does whatever cannot be
    opened, since nobody knows what it is. What another process writes or serves is found here, and refused by
    `artifact.remove`.
    """
    artifacts = {kind: list(_open(store, kind)) for kind in (*_MADE, *_SOURCES, "checkpoint")}
    live = {store.model(name, str(store.read_live(name))) for name in store.published()}
    kept = [artifact for kind in _MADE for artifact in _newest(artifacts[kind], kind, policy.keep)]
    kept += [model for model in artifacts["model"] if model.path in live]
    kept += [each for each in artifacts["checkpoint"] if not _is_done(store, each.path)]
    needed = _with_sources(kept, artifacts)
    doomed = [
        Doomed(artifact.path, _size(artifact.path), f"not live, and {policy.keep} newer ones stay")
        for kind in _MADE
        for artifact in artifacts[kind]
        if artifact.path not in needed
    ]
    doomed += _checkpoints(store)
    doomed += _partials(store, policy.partial_hours)
    if policy.sources:
        why = "nothing that stays was made from it"
        doomed += [
            Doomed(artifact.path, _size(artifact.path), why)
            for kind in _SOURCES
            for artifact in artifacts[kind]
            if artifact.path not in needed
        ]
        doomed += [Doomed(path, _size(path), "a cache") for path in sorted(store.root.glob("cache/*"))]
    return doomed


def _open(store: Store, kind: Kind) -> Iterator[Artifact]:
    for found, path in store.artifacts():
        if found == kind:
            try:
                yield open_artifact(path, kind)
            except HoneError:
                continue


def _newest(artifacts: Iterable[Artifact], kind: Kind, count: int) -> list[Artifact]:
    """Of each name: a model's own; for the others the run's, which is the id without its digest."""
    named: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        path = artifact.path
        named[path.parent.name if kind == "model" else re.sub(r"-[0-9a-f]{10}$", "", path.name)].append(
            artifact
        )
    newest = []
    for group in named.values():
        ordered = sorted(group, key=lambda artifact: artifact.manifest.created_at, reverse=True)
        newest += ordered[:count]
    return newest


def _with_sources(kept: Iterable[Artifact], artifacts: Mapping[Kind, Iterable[Artifact]]) -> set[Path]:
    """Paths of these and of everything that they were made from."""
    by_digest: dict[str | None, list[Artifact]] = defaultdict(list)
    for artifact in chain.from_iterable(artifacts.values()):
        by_digest[artifact.manifest.digest].append(artifact)
    found: set[Path] = set()
    left = list(kept)
    while left:
        artifact = left.pop()
        if artifact.path not in found:
            found.add(artifact.path)
            left += [
                each for source in artifact.manifest.lineage.values() for each in by_digest[source.digest]
            ]
    return found


def _checkpoints(store: Store) -> Iterator[Doomed]:
    """Of runs that are done: their result is sealed, and the same run is not trained again."""
    for kind, path in store.artifacts():
        if kind == "checkpoint" and _is_done(store, path):
            yield Doomed(path, _size(path), f"run {path.parent.parent.name} is done")


def _is_done(store: Store, checkpoint: Path) -> bool:
    run_id = checkpoint.parent.parent.name
    return store.adapter(run_id).exists() or store.weights(run_id).exists()


def _partials(store: Store, hours: float) -> Iterator[Doomed]:
    for path in store.partials():
        age = (time.time() - max(each.stat().st_mtime for each in [path, *path.rglob("*")])) / 3600
        if path.name.endswith(f"{PARTIAL}removed") or age >= hours:
            yield Doomed(path, _size(path), f"left by a killed writer {age:.0f} hours ago")


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file() and not each.is_symlink())
