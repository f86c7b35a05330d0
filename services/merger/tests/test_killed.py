"""A merge that is killed leaves nothing half open, and the next one ends with the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.store import Store


class Merger:
    """`hone-merger merge` of one adapter, again and again."""

    def __init__(self, process: "subprocess.Popen[str]", store: Store, run_id: str) -> None:
        self._process, self._store, self._run_id = process, store, run_id

    def merge(self, kill_after: float | None = None) -> tuple[int, float]:
        """Exit status, negative for a signal, and seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        arguments = ["--store", str(self._store.root), "merge", self._run_id, "--name", "m"]
        start = time.monotonic()
        self._process.stdin.write(json.dumps([kill_after, arguments]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), time.monotonic() - start

    @property
    def model(self) -> Path:
        return self._store.model("m", self._run_id)


@contextmanager
def _merger(store: Store, run_id: str, folder: Path) -> Iterator[Merger]:
    script = str(Path(__file__).with_name("merger_forked.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "ready: merge\n"
        yield Merger(process, store, run_id)
        assert process.stdin is not None
        process.stdin.close()


def _digest(model: Path) -> str:
    return open_artifact(model, "model", digests=True).manifest.digest


def _drill(merger: Merger, store: Store, kills: int) -> None:
    status, seconds = merger.merge()
    assert status == 0
    expected = _digest(merger.model)
    rng = random.Random(20)
    killed = gone_on = 0
    while killed < kills:
        store.live("m").unlink(missing_ok=True)
        if merger.model.exists():
            merger.model.rename(store.root / f"done-{killed}-{gone_on}")
            gone_on += 1
        status, _ = merger.merge(kill_after=rng.uniform(0, seconds * 1.05))
        assert status in (0, -signal.SIGKILL)
        killed += status != 0
        live = store.read_live("m")
        assert live is None or _digest(store.model("m", live)) == expected
        if status != 0 and killed % 2:
            # Every other time it is killed again before it may end.
            continue
        assert merger.merge()[0] == 0
        assert _digest(merger.model) == expected
        assert store.read_live("m") == merger.model.name
        assert not store.partials()


@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.chain), pytest.param(20, marks=pytest.mark.full)]
)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, filled: Store, adapter: Artifact, kills: int
) -> None:
    with _merger(filled, adapter.manifest.id, tmp_path) as merger:
        _drill(merger, filled, kills)
