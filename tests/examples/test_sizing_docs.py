"""The table that platform engineers choose GPUs by is the one that the estimate makes."""

import subprocess
import sys
from pathlib import Path

import pytest

# It plans every row of the table anew.
pytestmark = pytest.mark.chain

ROOT = Path(__file__).resolve().parents[2]


def test_the_guide_shows_the_table_that_the_command_prints() -> None:
    done = subprocess.run(
        [sys.executable, "bench/sizing.py"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    )
    table = done.stdout.splitlines()[:-1]
    assert len(table) == 8
    assert "\n".join(table) in (ROOT / "docs" / "scaling-out.md").read_text(encoding="utf-8")
