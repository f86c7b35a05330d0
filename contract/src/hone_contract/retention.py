"""What may go from a store, by a policy, and why."""

import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hone_contract.artifact import PARTIAL, Artifact, open_artifact
from hone_contract.errors import HoneError
from hone_contract.manifest import FILE_NAME, Kind, parse_manifest
from hone_contract.store import Store, run_name

_MADE: tuple[Kind, ...] = ("model", "adapter", "weights")


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

    What is live stays, what a run goes on from, and what cannot be opened; and so does what they were made
    from. While one of them cannot even say what it was made from, only models, checkpoints and partials go.
    What another process writes or serves is found here, and refused by `artifact.remove`.
    """
    whole, damaged, silent = _look(store)
    live = {store.model(name, str(store.read_live(name))) for name in store.published()}
    kept = [artifact for kind in _MADE for artifact in _newest(whole[kind], kind, policy.keep)]
    kept += [model for model in whole["model"] if model.path in live]
    kept += [each for each in whole["checkpoint"] if not _is_done(store, each.path)]
    needed = _with_sources([*kept, *damaged], whole)
    old = f"not live, and {policy.keep} newer ones stay"
    # A run is done as long as its result is there, so checkpoints are first.
    doomed = [*_checkpoints(store), *_unneeded(whole["model"], needed, old)]
    if not silent:
        doomed += _unneeded([*whole["adapter"], *whole["weights"]], needed, old)
    doomed += _partials(store, policy.partial_hours)
    if policy.sources and not silent:
        unused = "nothing that stays was made from it"
        doomed += _unneeded([*whole["dataset"], *whole["base"]], needed, unused)
        doomed += [Doomed(path, _size(path), "a cache") for path in sorted(store.root.glob("cache/*"))]
    return doomed


def _look(store: Store) -> tuple[dict[Kind, list[Artifact]], list[Artifact], bool]:
    """What can be opened, what at least says what it was made from, and whether something does not say it."""
    whole: dict[Kind, list[Artifact]] = defaultdict(list)
    damaged, silent = [], False
    for kind, path in store.artifacts():
        try:
            whole[kind].append(open_artifact(path, kind))
        except HoneError:
            try:
                text = (path / FILE_NAME).read_text(encoding="utf-8", errors="replace")
                damaged.append(Artifact(path, parse_manifest(text, str(path))))
            except (OSError, HoneError):
                silent = True
    return whole, damaged, silent


def _unneeded(artifacts: Iterable[Artifact], needed: set[Path], why: str) -> list[Doomed]:
    return [Doomed(each.path, _size(each.path), why) for each in artifacts if each.path not in needed]


def _newest(artifacts: Iterable[Artifact], kind: Kind, count: int) -> list[Artifact]:
    """Of each name: a model's own; for the others the run's, which is the id without its digest."""
    named: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        path = artifact.path
        named[path.parent.name if kind == "model" else run_name(path.name)].append(artifact)
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
    for _, path in store.artifacts("checkpoint"):
        if _is_done(store, path):
            yield Doomed(path, _size(path), f"run {path.parent.parent.name} is done")


def _is_done(store: Store, checkpoint: Path) -> bool:
    run_id = checkpoint.parent.parent.name
    return store.adapter(run_id).exists() or store.weights(run_id).exists()


def _partials(store: Store, hours: float) -> Iterator[Doomed]:
    for path in store.partials():
        age = (time.time() - max((each.st_mtime for each in _statuses(path)), default=0.0)) / 3600
        if path.name.endswith(f"{PARTIAL}removed") or age >= hours:
            yield Doomed(path, _size(path), f"left by a killed writer {age:.0f} hours ago")


def _size(path: Path) -> int:
    return sum(status.st_size for status in _statuses(path) if stat.S_ISREG(status.st_mode))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Of a folder and all that is in it; a writer may rename what was just seen."""
    for each in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            yield each.lstat()
