"""`hone-merger publish` as a user runs it, and what is to arrive."""

from pathlib import Path

from merger_cli import HEAVY, Outcome, run_merger
from merger_tiny import bytes_of

from hone_contract.artifact import FILE_NAME as MANIFEST
from hone_contract.artifact import Artifact


def published(tmp_path: Path, *arguments: str | Path, **environment: str) -> Outcome:
    outcome = run_merger(tmp_path, "publish", *arguments, **environment)
    assert outcome.code == 0, outcome.err
    assert not outcome.imported & HEAVY
    return outcome


def expected(artifact: Artifact, *without: str) -> dict[str, bytes]:
    kept = bytes_of(artifact.path)
    return {name: data for name, data in kept.items() if name not in {MANIFEST, "probes.json", *without}}
