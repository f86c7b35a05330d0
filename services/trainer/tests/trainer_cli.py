"""The real command in a process of its own, and what it imported."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HEAVY = {"torch", "transformers", "trl", "peft", "datasets"}
_IMPORT = "import time:"
_SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    """What a finished process left behind."""

    code: int
    out: str
    err: str
    imported: frozenset[str]
    """Top-level names of every module that it imported."""


def run_trainer(folder: Path, *arguments: str | Path, **variables: str) -> Outcome:
    """Run `hone-trainer` in `folder`, where its store is then `store`; offline unless told otherwise."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hone_trainer", *map(str, arguments)],
        cwd=folder,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    lines = done.stderr.splitlines(keepends=True)
    modules = (each.rpartition("|")[2].strip() for each in lines if each.startswith(_IMPORT))
    return Outcome(
        done.returncode,
        done.stdout,
        "".join(each for each in lines if not each.startswith(_IMPORT)),
        frozenset(module.partition(".")[0] for module in modules),
    )


def refusal(outcome: Outcome, code: int) -> str:
    """Check that the command failed at once, with one error and this exit code; what it told.

    An error is a line; several mistakes in one input stand indented below it.
    """
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    first, *more = outcome.err.splitlines()
    assert first.startswith("error: ") and all(line.startswith(7 * " ") for line in more), outcome.err
    assert not outcome.imported & HEAVY
    return outcome.err


def environment() -> dict[str, str]:
    # One thread: a tiny model gains nothing from two, and a busy machine makes them wait for each other.
    ours = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HONE_", "HF_", "FAST_"))
    }
    return kept | ours
