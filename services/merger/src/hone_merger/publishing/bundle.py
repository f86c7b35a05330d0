"""The files that are published.

A list says what may leave. Probes are conversations from the user's data, so they stay in the store unless
they are asked for. The manifest stays too, since it lists them; a file for GNU coreutils' `sha256sum -c`
takes its place.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import BadInput
from hone_contract.hub import hub_repository
from hone_contract.manifest import Source
from hone_contract.model_files import TOKENIZER_FILES
from hone_contract.probes import FILE_NAME as PROBES
from hone_contract.store import Store, run_name
from hone_merger.adapter_config import CONFIG, is_path, read_json
from hone_merger.card import FILE_NAME as CARD
from hone_merger.card import adapter_card
from hone_merger.plan import Plan
from hone_merger.report import FILE_NAME as REPORT

SUMS = "SHA256SUMS"
_NAMES = frozenset((*TOKENIZER_FILES, "config.json", "generation_config.json", CONFIG, CARD, REPORT))
_WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True)
class Item:
    """One file."""

    name: str
    content: Path | bytes
    """In the store, or made for this."""
    size: int
    """Bytes."""
    digest: str
    """SHA-256, hex."""

    @classmethod
    def made(cls, name: str, text: str) -> "Item":
        content = text.encode("utf-8")
        return cls(name, content, len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Bundle:
    """What is published of an artifact."""

    artifact: Artifact
    title: str
    """A name for files and folders."""
    items: list[Item]
    """By name; the last is SHA256SUMS."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(item.size for item in self.items)


def make_bundle(artifact: Artifact, store: Store, *, with_probes: bool = False) -> Bundle:
    """For an adapter, whose card names the base, that has to be in the store.

    Raises ArtifactMissing when it is not, BadInput when it is another than the one of the training.
    """
    items = {
        entry.path: Item(entry.path, artifact.path / entry.path, entry.size, entry.sha256)
        for entry in artifact.manifest.files
        if may_leave(entry.path) or (with_probes and entry.path == PROBES)
    }
    if artifact.manifest.kind == "adapter":
        items |= {item.name: item for item in _of_adapter(artifact, store)}
    listed = [items[name] for name in sorted(items)]
    sums = "".join(f"{item.digest}  {item.name}\n" for item in listed)
    title = artifact.manifest.id.replace("/", "-")
    return Bundle(artifact, title, [*listed, Item.made(SUMS, sums)])


def may_leave(name: str) -> bool:
    """Whether it is a file that is published, by its name; probes are not, unless they are asked for."""
    return name in _NAMES or ("/" not in name and name.endswith(_WEIGHTS))


def _of_adapter(adapter: Artifact, store: Store) -> list[Item]:
    """Its card, and a configuration that names the base as others find it, never by a path."""
    trained_on = adapter.manifest.lineage["base"]
    base = open_artifact(store.base(trained_on.id), "base")
    if base.manifest.digest != trained_on.digest:
        raise BadInput(
            f"{adapter.manifest.id} was trained on another {trained_on.id} than the store has; import that "
            "base again, which the card is to name"
        )
    plan = Plan(adapter, base, run_name(adapter.manifest.id), adapter.manifest.id)
    config = read_json(adapter.path / CONFIG)
    card = Item.made(CARD, adapter_card(plan, store, config))
    repository = hub_repository(base.manifest.lineage.get("source", Source(id="")).id)
    named = config.get("base_model_name_or_path")
    if repository is None and isinstance(named, str) and not is_path(named):
        return [card]
    config["base_model_name_or_path"] = repository or base.manifest.id
    return [card, Item.made(CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")]
