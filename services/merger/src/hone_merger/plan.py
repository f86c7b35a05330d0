"""What a merge is going to be, settled and validated before torch is imported."""

import re
from dataclasses import dataclass

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import BadInput
from hone_contract.manifest import Source
from hone_contract.store import Store
from hone_merger.adapter_config import check_adapter


@dataclass(frozen=True)
class Plan:
    """A merge whose parts are all there and belong together."""

    adapter: Artifact
    base: Artifact
    name: str
    """The model's name, under which it is served."""
    version: str
    """The adapter's id: merging the same adapter again gives the same version."""

    @property
    def lineage(self) -> dict[str, Source]:
        return {"adapter": self.adapter.source, "base": self.base.source}


def make_plan(store: Store, adapter_id: str, name: str | None) -> Plan:
    """Open the adapter and its base, reading every byte, and check that they fit.

    Raises BadInput when the adapter was trained on another base than the store has.
    """
    adapter = open_artifact(store.adapter(adapter_id), "adapter", digests=True)
    trained_on = adapter.manifest.lineage["base"]
    base = open_artifact(store.base(trained_on.id), "base", digests=True)
    if base.manifest.digest != trained_on.digest:
        raise BadInput(
            f"adapter {adapter_id} was trained on another {trained_on.id} "
            f"({str(trained_on.digest)[:12]}…) than the store has ({base.manifest.digest[:12]}…); "
            "import that base, or train again"
        )
    check_adapter(adapter.path, base.path)
    return Plan(adapter, base, name or _model_name(adapter_id), adapter_id)


def _model_name(adapter_id: str) -> str:
    """A run's id without the digest at its end: `hone-faq-0123456789` makes `hone-faq`."""
    return re.sub(r"-[0-9a-f]{10}$", "", adapter_id)
