"""What a name on the command line means in the store."""

from pathlib import Path

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import ArtifactMissing, BadConfiguration
from hone_contract.manifest import Kind
from hone_contract.store import Store


def find_model(store: Store, text: str) -> Artifact:
    """`NAME`, whose live version it is then, or `NAME/VERSION`; every byte is compared with its digest.

    Raises ArtifactMissing when there is none, ArtifactCorrupt when a byte has changed.
    """
    return open_artifact(_locate_model(store, text), "model", digests=True)


def locate(store: Store, text: str) -> tuple[Kind, Path]:
    """A model as `find_model` has it, or an adapter by its id: where it lies, before it is held and read.

    Raises ArtifactMissing for neither, BadConfiguration for both, or for whole weights that were not merged.
    """
    if "/" in text:
        return "model", _locate_model(store, text)
    is_adapter, is_model = store.adapter(text).exists(), store.live(text).parent.exists()
    if is_adapter and is_model:
        raise BadConfiguration(
            f"{text!r} is an adapter, {store.adapter(text)}, and a model, {store.live(text).parent}; say "
            f"{text}/VERSION for the model, or remove the one that is not wanted"
        )
    if is_adapter:
        return "adapter", store.adapter(text)
    if is_model:
        return "model", _locate_model(store, text)
    if store.weights(text).exists():
        raise BadConfiguration(
            f"{text!r} is what full fine-tuning made, which is published as a model: merge it first, "
            f"`hone-merger merge {text}`"
        )
    raise ArtifactMissing(f"no model and no adapter is named {text!r}; `hone-store ls` lists what there is")


def _locate_model(store: Store, text: str) -> Path:
    name, _, version = text.partition("/")
    version = version or store.read_live(name) or ""
    if not version:
        raise ArtifactMissing(
            f"no version of a model {name!r} is live; say {name}/VERSION, as `hone-store ls` lists them"
        )
    path = store.model(name, version)
    if not path.is_dir():
        raise ArtifactMissing(f"no model at {path}; `hone-store ls` lists what there is")
    return path
