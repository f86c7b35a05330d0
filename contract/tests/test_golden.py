"""What an earlier Hone wrote must open for ever, with the identity it had.

Never edit a file in golden/ or a digest below; a new schema version adds files and digests.
"""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from hone_contract.manifest import Kind, Manifest, parse_manifest
from hone_contract.probes import Probes, read_probes

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = {
    "manifest-v1-base.json": "775ed6a51e401518a86b7e3675ec64a10dbaece79effda99951af100865eb8f3",
    "manifest-v1-dataset.json": "8376d6003d56fdfb250423fb4f1824c361b45ddb1298e19bf98b8b7fe040a53e",
    "manifest-v1-adapter.json": "ed00490ee55c4a2287db0090a14d28fdb4255269f965078cdfe87bccb9f54c20",
    "manifest-v1-checkpoint.json": "0b20989cc3de3d002f38d56dabd98a93343a0833ae65d7bbeb0ffb1b3324d439",
    "manifest-v1-weights.json": "21257b7f1fd87dd31d5b7908c289a59b7ca812a86b8d35fcc91afd72a0e728ac",
    "manifest-v1-model.json": "16d0a1fcd1c37939c89b61c892d0b78ede8e43f67295f22754be399f0d440e93",
}


def _open(name: str) -> Manifest:
    return parse_manifest((GOLDEN / name).read_text(encoding="utf-8"), name)


def _holds(now: Any, written: Any) -> bool:
    """True when everything that was written is still there; optional keys may have been added."""
    if isinstance(written, dict):
        return isinstance(now, dict) and all(key in now and _holds(now[key], written[key]) for key in written)
    if isinstance(written, list):
        return isinstance(now, list) and len(now) == len(written) and all(map(_holds, now, written))
    return bool(now == written)


@pytest.mark.parametrize(("name", "digest"), DIGESTS.items())
def test_an_old_manifest_opens_with_the_identity_it_had(name: str, digest: str) -> None:
    manifest = _open(name)
    assert name == f"manifest-v{manifest.schema_version}-{manifest.kind}.json"
    assert manifest.digest == digest
    assert _holds(manifest.model_dump(mode="json"), json.loads((GOLDEN / name).read_text(encoding="utf-8")))


def test_there_is_a_golden_manifest_of_every_kind() -> None:
    assert {path.name for path in GOLDEN.glob("manifest-*.json")} == DIGESTS.keys()
    assert {f"manifest-v1-{kind}.json" for kind in get_args(Kind)} <= DIGESTS.keys()


def test_the_lineage_leads_from_the_model_to_its_base_and_data() -> None:
    adapter = _open("manifest-v1-adapter.json")
    assert _open("manifest-v1-model.json").lineage["adapter"].digest == adapter.digest
    assert adapter.lineage["base"].digest == _open("manifest-v1-base.json").digest
    assert adapter.lineage["dataset"].digest == _open("manifest-v1-dataset.json").digest


def _read_golden_probes(folder: Path) -> Probes:
    shutil.copy(GOLDEN / "probes-v1.json", folder / "probes.json")
    return read_probes(folder)


def test_old_probes_open(tmp_path: Path) -> None:
    probes = _read_golden_probes(tmp_path)
    first, second = probes.probes
    assert first.messages[1] == {"role": "user", "content": "How long may I return a chair? 🪑"}
    assert first.prompt_token_ids[:3] == [151644, 8948, 198]
    assert len(first.continuation_token_ids) == len(first.base) == len(first.adapter) == 11
    assert first.merged is not None and first.merged[1] == -0.004126
    assert (second.adapter, second.merged) == ([-0.25, 0.0], None)
    assert probes.tokenizer_sha256 == "071de159f6620ad2f9cd56d0fbfe82f95ccde5ad9f1ca2b10495fde852d889e5"
    assert _holds(probes.model_dump(mode="json"), json.loads((GOLDEN / "probes-v1.json").read_text("utf-8")))
