"""A small artifact, sealed the way the services do it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.manifest import Kind, Source


def _seal_small(target: Path, kind: Kind) -> Artifact:
    with draft(target, {"make": target.name}) as partial:
        (partial / "tokenizer").mkdir()
        (partial / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"}\n', encoding="utf-8")
        (partial / "model.safetensors").write_bytes(bytes(range(256)))
        return seal(partial, kind, target.name, lineage={"base": Source(id="tiny", digest="a" * 64)})


@pytest.fixture
def seal_small() -> Callable[[Path, Kind], Artifact]:
    return _seal_small


@pytest.fixture
def sealed(tmp_path: Path) -> Artifact:
    return _seal_small(tmp_path / "models" / "faq" / "v1", "model")
