"""What a name on the command line means in the store."""

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import ArtifactMissing, BadConfiguration
from hone_contract.store import Store


def find_model(store: Store, text: str) -> Artifact:
    """`NAME`, whose live version it is then, or `NAME/VERSION`; every byte is compared with its digest.

    Raises ArtifactMissing when there is none, ArtifactCorrupt when a byte has changed.
    """
    name, _, version = text.partition("/")
    version = version or store.read_live(name) or ""
    if not version:
        raise ArtifactMissing(f"no model {name!r} was published; `hone-store ls` lists what there is")
    return open_artifact(store.model(name, version), "model", digests=True)


def find_artifact(store: Store, text: str) -> Artifact:
    """A model as `find_model` finds it, or an adapter by its id.

    Raises BadConfiguration for what is both, or whole weights that were not merged.
    """
    if "/" in text:
        return find_model(store, text)
    is_adapter, is_model = store.adapter(text).exists(), store.live(text).exists()
    if is_adapter and is_model:
        raise BadConfiguration(f"{text!r} is an adapter and a model; say {text}/VERSION for the model")
    if is_adapter:
        return open_artifact(store.adapter(text), "adapter", digests=True)
    if not is_model and store.weights(text).exists():
        raise BadConfiguration(
            f"{text!r} is what full fine-tuning made; `hone-merger merge {text}` makes a model of it, which "
            "can be published"
        )
    if not is_model:
        raise ArtifactMissing(
            f"no model and no adapter is named {text!r}; `hone-store ls` lists what there is"
        )
    return find_model(store, text)
