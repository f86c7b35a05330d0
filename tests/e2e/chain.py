"""Starts the real commands, and ends what it started."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hone_contract.artifact import open_artifact
from hone_contract.store import Store

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "hone-faq" / "demo.py"


@dataclass(frozen=True)
class Demo:
    """The demo as it was run just now."""

    store: Store
    results: dict[str, Any]


@dataclass(frozen=True)
class Running:
    """A server process and where it listens."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def wait_until_ready(self) -> dict[str, object]:
        while True:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            answer = httpx.get(f"{self.url}/ready")
            if answer.status_code == 200:
                ready: dict[str, object] = answer.json()
                return ready
            time.sleep(0.2)


@contextmanager
def hone_server(store: Path, log: Path, *arguments: str) -> Iterator[Running]:
    """`hone-server` on a free port; terminated at the end unless it has left by itself.

    What it remembers lies beside its log.
    """
    with server_process(["-m", "hone_server"], store, log, *arguments) as running:
        yield running


@contextmanager
def server_process(program: list[str], store: Path, log: Path, *arguments: str) -> Iterator[Running]:
    """The same of a program that takes its options."""
    command = [sys.executable, *program, "--store", str(store), "--port", "0", *arguments]
    environment = without_settings() | {"HONE_STATE": str(log.parent / "state")}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        yield Running(process, _address(process, log), log)
    finally:
        process.terminate()
        process.wait(timeout=90)


def control(name: str, store: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`hone-server swap`, `rollback` or `status`."""
    command = [sys.executable, "-m", "hone_server", name, "--store", str(store), "--url", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=without_settings())


def published_copy(demo: Demo, root: Path) -> Store:
    """A store of its own with the demo's model, live, and its base."""
    name, version = demo.results["model"].split("/")
    store = Store(root)
    shutil.copytree(demo.store.model(name, version), store.model(name, version))
    base = open_artifact(store.model(name, version), "model").manifest.lineage["base"].id
    shutil.copytree(demo.store.base(base), store.base(base))
    store.point_live(name, version)
    return store


def base_copy(demo: Demo, root: Path, base: str) -> Store:
    """A store of its own with one of the demo's bases."""
    store = Store(root)
    store.base(base).parent.mkdir(parents=True)
    shutil.copytree(demo.store.base(base), store.base(base), copy_function=os.link)
    return store


def command(module: str, store: Store, *arguments: str) -> str:
    """The last line that a service's command prints."""
    called = [sys.executable, "-m", module, "--store", str(store.root), *arguments]
    done = subprocess.run(called, stdout=subprocess.PIPE, text=True, check=True, env=without_settings())
    return done.stdout.splitlines()[-1]


def without_settings() -> dict[str, str]:
    """The environment without what a developer's `.env` says."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if '"event":"listening"' in line:
                data = json.loads(line)["data"]
                return f"http://{data['host']}:{data['port']}"
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def chat(url: str, *arguments: str, said: str | None = None) -> subprocess.CompletedProcess[str]:
    """`hone-chat`, with `said` on its standard input."""
    command = [sys.executable, "-m", "hone_chat", "--base-url", f"{url}/v1", *arguments]
    return subprocess.run(
        command, input=said or "", capture_output=True, text=True, timeout=120, env=without_settings()
    )
