"""The committed JSON Schemas are those of the code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hone_contract.schema import SHAPES, schemas

COMMITTED = Path(__file__).parents[1] / "schema"


def test_every_schema_is_committed_and_no_other() -> None:
    assert {path.name for path in COMMITTED.iterdir()} == schemas().keys()


@pytest.mark.parametrize("name", schemas())
def test_the_committed_schema_is_that_of_the_code(name: str) -> None:
    assert (COMMITTED / name).read_text(encoding="utf-8") == schemas()[name], "stale: run `make schemas`"


def test_the_command_writes_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hone_contract.schema", str(tmp_path)], check=True)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == schemas()


@pytest.mark.parametrize("name", SHAPES)
def test_unknown_keys_are_forbidden_everywhere(name: str) -> None:
    schema = json.loads(schemas()[f"{name}.json"])
    shapes = [shape for shape in (schema, *schema.get("$defs", {}).values()) if "properties" in shape]
    assert shapes and all(shape["additionalProperties"] is False for shape in shapes)
