"""Makes the objects of k8s/ and the trainer's tiny bases importable, and says what these tests need."""

import os
import shutil
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(_ROOT / "tests" / "multinode"),
    str(_ROOT / "tests" / "manifests"),
    str(_ROOT / "services" / "trainer" / "tests"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Network namespaces want root, and k8s/ is built with kubectl; CI must have both."""
    missing = [name for name in ("kubectl", "ip", "unshare") if shutil.which(name) is None]
    if (os.geteuid() == 0 and not missing) or os.environ.get("CI"):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs root, kubectl, iproute2 and util-linux"))
