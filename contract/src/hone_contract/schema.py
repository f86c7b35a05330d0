"""Writes the JSON Schemas of the contract: `python -m hone_contract.schema FOLDER`."""

import json
import sys
from pathlib import Path

from hone_contract.events import Event, RunStatus, StepMetrics
from hone_contract.manifest import Manifest
from hone_contract.probes import Probes
from hone_contract.run_spec import RunSpec
from hone_contract.shape import Shape

SHAPES: dict[str, type[Shape]] = {
    "run_spec": RunSpec,
    "manifest": Manifest,
    "probes": Probes,
    "event": Event,
    "step_metrics": StepMetrics,
    "run_status": RunStatus,
}


def schemas() -> dict[str, str]:
    """File name to text."""
    return {
        f"{name}.json": json.dumps(shape.model_json_schema(), indent=2, sort_keys=True) + "\n"
        for name, shape in SHAPES.items()
    }


if __name__ == "__main__":
    for file_name, text in schemas().items():
        Path(sys.argv[1], file_name).write_text(text, encoding="utf-8")
