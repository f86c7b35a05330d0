"""merge_report.json: what a merge was made from, and what was found when it was checked.

Nothing in it depends on when or where the merge ran, since the same merge is to make the same model; seconds
and memory are in the manifest's metrics.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hone_contract.artifact import write_atomically
from hone_contract.errors import BadInput
from hone_merger.plan import Plan

FILE_NAME = "merge_report.json"


def write_report(
    plan: Plan, checked: Mapping[str, object], distances: Mapping[str, float], folder: Path
) -> None:
    """`distances` are mean absolute differences of logprobs on the probes, in nats."""
    report = {
        "schema_version": 1,
        "from": {role: source.model_dump() for role, source in plan.lineage.items()},
        "trained_on": plan.trained_on.model_dump(),
        "another_base_was_forced": plan.trained_on.digest != plan.base.manifest.digest,
        "dtype": plan.dtype or "as the base has it",
        "weights": dict(checked),
        "probes": dict(distances),
    }
    write_atomically(folder / FILE_NAME, json.dumps(report, indent=2) + "\n")


def read_report(folder: Path) -> dict[str, Any]:
    """Raises BadInput when the model has none."""
    try:
        report: dict[str, Any] = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / FILE_NAME} cannot be read: {error}; merge the model again") from error
    return report
