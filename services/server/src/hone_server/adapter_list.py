"""Which adapters of a base the store has, by their manifests alone."""

import json
from contextlib import suppress

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import HoneError
from hone_contract.store import Store

# Those that vLLM makes room for (vllm/config/lora.py).
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class NoSuchAdapter(Exception):
    """No adapter of this base has that name."""


class NotServed(Exception):
    """It is there, and is not served; the message says why, and what to do."""


def adapters_of(store: Store, base: Artifact) -> list[Artifact]:
    """The newest first; what cannot be opened is left out."""
    found = []
    for _, path in store.artifacts("adapter"):
        with suppress(HoneError, OSError):
            adapter = open_artifact(path, "adapter")
            source = adapter.manifest.lineage.get("base")
            if source is not None and source.digest == base.manifest.digest:
                found.append(adapter)
    return sorted(found, key=lambda adapter: adapter.manifest.created_at, reverse=True)


def rank_for(adapters: list[Artifact]) -> int:
    """The least rank to make room for so that all of them fit, 16 at least: those that come later may too."""
    most = max((_rank(adapter) for adapter in adapters), default=16)
    return next((rank for rank in _RANKS if rank >= max(16, most)), _RANKS[-1])


def _rank(adapter: Artifact) -> int:
    try:
        config = json.loads((adapter.path / "adapter_config.json").read_text(encoding="utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
