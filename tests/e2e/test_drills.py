"""What goes wrong on a bad day, each with a server of its own."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from chain import Demo, control, hone_server, published_copy, server_process, without_settings
from versions import base_in_disguise, weaker_version

pytestmark = pytest.mark.full

NAME = "hone-faq"


def test_weights_that_stay_the_old_ones_after_a_load_are_noticed(demo: Demo, tmp_path: Path) -> None:
    store = published_copy(demo, tmp_path / "store")
    weaker = weaker_version(store, NAME).path.name
    stale = [str(Path(__file__).with_name("stale_worker.py"))]
    with server_process(stale, store.root, tmp_path / "log") as running:
        before = running.wait_until_ready()["version"]
        refused = control("swap", store.root, running.url, "--to", weaker, "--wait", "240")
        assert refused.returncode == 65, refused.stderr
        assert httpx.get(f"{running.url}/ready").json()["version"] == before
    assert "Traceback" not in running.log.read_text()


def test_a_crash_comes_back_on_the_version_that_passed_last(demo: Demo, tmp_path: Path) -> None:
    """Live names the base by mistake; the server goes down before it has noticed, and is started again."""
    store = published_copy(demo, tmp_path / "store")
    trained = store.read_live(NAME)

    with hone_server(store.root, tmp_path / "log") as running:
        running.wait_until_ready()
        base_in_disguise(store, NAME)
        for child in psutil.Process(running.process.pid).children(recursive=True):
            child.kill()
        assert running.process.wait(timeout=60) == 75
    store.point_live(NAME, "base")
    with hone_server(store.root, tmp_path / "log") as running:
        ready = running.wait_until_ready()
        assert ready["version"] == trained
        assert "equals its base" in str(ready["refused"])


def test_a_disk_that_is_full_at_the_start_is_told(demo: Demo, tmp_path: Path) -> None:
    """No file can grow: neither caches, nor the record, nor the memory that the engine's processes share."""
    command = [sys.executable, "-m", "hone_server", "--store", str(demo.store.root), "--port", "0"]

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    start = time.monotonic()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=without_settings() | {"HONE_STATE": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        preexec_fn=full,
        check=False,
    )
    assert done.returncode not in (0, -25), done.stderr[-2000:]
    assert time.monotonic() - start < 240
    assert any(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr[-2000:]
