"""One trained demo model for all tests: `make demo` finds in the store what it made before."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain import DEMO, ROOT, Demo, Running, hone_server

from hone_contract.store import Store


@pytest.fixture(scope="session")
def demo() -> Demo:
    store = Store(Path(os.environ.get("HONE_STORE") or ROOT / "store"))
    subprocess.run([sys.executable, str(DEMO)], check=True, env=os.environ | {"HONE_STORE": str(store.root)})
    return Demo(store, json.loads((store.root / "demo.json").read_text()))


@pytest.fixture(scope="module")
def server(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with hone_server(demo.store.root, tmp_path_factory.mktemp("server") / "log") as running:
        yield running
