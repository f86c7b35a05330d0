"""Models in the store, found by what people call them: bases, what runs made, and merged models."""

from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import ArtifactMissing, BadConfiguration, BadInput, HoneError
from hone_contract.manifest import Kind, Source
from hone_contract.store import Store

_FOLDERS: dict[str, Kind] = {"bases": "base", "adapters": "adapter", "weights": "weights"}


@dataclass(frozen=True)
class Found:
    """A model that can be asked, and the base that it was made from."""

    artifact: Artifact
    base: Artifact
    """Of a base itself: the same."""

    @property
    def is_base(self) -> bool:
        return self.artifact.manifest.kind == "base"

    @property
    def made_of(self) -> Source | None:
        """Of a merged model: what it was merged from."""
        lineage = self.artifact.manifest.lineage
        return lineage.get("adapter") or lineage.get("weights")

    @property
    def run_id(self) -> str:
        """The run that made it. Raises BadConfiguration for a base."""
        if self.is_base:
            raise BadConfiguration(
                f"{self.artifact.manifest.id!r} is a base, which no run made; name a run, or models/NAME"
            )
        return self.made_of.id if self.made_of is not None else self.artifact.manifest.id


def find(store: Store, name: str) -> Found:
    """The model called `name`: a base, a run, `models/NAME` or `models/NAME/VERSION`.

    Raises ArtifactMissing when there is none, BadConfiguration when there are several: then `bases/NAME`,
    `adapters/NAME` and `weights/NAME` tell them apart. Raises as `open_artifact` does.
    """
    folder, _, rest = name.partition("/")
    if folder == "models" and rest:
        return find_model(store, rest)
    places = _places(store, name)
    if folder in _FOLDERS and rest and not _there(places):
        places = [place for place in _places(store, rest) if place[0] == _FOLDERS[folder]]
    there = _there(places)
    if len(there) > 1:
        asked = ", ".join(f"{path.parent.name}/{path.name}" for _, path in there)
        raise BadConfiguration(f"{name!r} names {len(there)} things in the store; say which: {asked}")
    if not there:
        raise ArtifactMissing(
            f"no {places[0][0]} at {places[0][1]}, and no such run; `hone-store ls` lists what there is"
        )
    [(kind, path)] = there
    return _with_base(store, open_artifact(path, kind))


def find_run(store: Store, run_id: str) -> Found:
    """What a run made. Raises ArtifactMissing when there is no such run, or it has not ended."""
    places: list[tuple[Kind, Path]] = [("adapter", store.adapter(run_id)), ("weights", store.weights(run_id))]
    # Where there is none, whoever opens the first place tells it.
    kind, path = (_there(places) or places)[0]
    return _with_base(store, open_artifact(path, kind))


def find_model(store: Store, name: str) -> Found:
    """A merged model, as `NAME` (its live version) or `NAME/VERSION`."""
    title, _, version = name.partition("/")
    live = version or store.read_live(title)
    if live is None:
        raise BadConfiguration(
            f"no version of models/{title} is live; name one as models/{title}/VERSION: `hone-store ls`"
        )
    return _with_base(store, open_artifact(store.model(title, live), "model"))


def find_merged(store: Store, run: Found, name: str | None = None) -> Found | None:
    """The model that was merged from a run's result: one that is live, or else the newest.

    With a `name` that one. Raises BadConfiguration when it was merged from something else.
    """
    if name is not None:
        named = find_model(store, name)
        if named.made_of != run.artifact.source:
            made_of = named.made_of.id if named.made_of is not None else "something unknown"
            raise BadConfiguration(
                f"models/{name} was merged from {made_of}, not from {run.run_id}; name another"
            )
        return named
    ours = [found for found in _models(store, run.base) if found.made_of == run.artifact.source]
    return max(
        ours, key=lambda found: (_is_live(store, found), found.artifact.manifest.created_at), default=None
    )


def _places(store: Store, name: str) -> list[tuple[Kind, Path]]:
    """Where a model of that name could lie. A Hub id is a base's name and no run's."""
    places: list[tuple[Kind, Path]] = [("base", store.base(name))]
    if "/" in name or ":" in name:
        return places
    return [*places, ("adapter", store.adapter(name)), ("weights", store.weights(name))]


def _there(places: list[tuple[Kind, Path]]) -> list[tuple[Kind, Path]]:
    return [(kind, path) for kind, path in places if path.is_dir()]


def _with_base(store: Store, artifact: Artifact) -> Found:
    """Raises BadInput when the store's base is not the one that the model was made from."""
    if artifact.manifest.kind == "base":
        return Found(artifact, artifact)
    made_from = artifact.manifest.lineage["base"]
    base = open_artifact(store.base(made_from.id), "base")
    if base.manifest.digest != made_from.digest:
        raise BadInput(
            f"{artifact.manifest.id} was made from another {made_from.id} ({str(made_from.digest)[:12]}…) "
            f"than the store has ({base.manifest.digest[:12]}…); import that base, or train again"
        )
    return Found(artifact, base)


def _models(store: Store, base: Artifact) -> list[Found]:
    """Every merged model that is whole and has this base."""
    models = []
    for _, path in store.artifacts("model"):
        try:
            model = open_artifact(path, "model")
        except HoneError:
            # Nobody named this one, so it is nobody's trouble here.
            continue
        if model.manifest.lineage.get("base") == base.source:
            models.append(Found(model, base))
    return models


def _is_live(store: Store, found: Found) -> bool:
    path = found.artifact.path
    try:
        return store.read_live(path.parent.name) == path.name
    except BadInput:
        return False
