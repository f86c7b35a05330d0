"""Makes the modules of the drill importable, and runs it on a live cluster only where it was asked for."""

import os
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hone", "the drill on a Kubernetes cluster")
    group.addoption(
        "--images",
        default="",
        metavar="PREFIX:TAG",
        help="where the nodes find the images, such as registry.example.org/hone:0.1.0 (default: as in k8s/)",
    )
    group.addoption("--storage-class", help="the class of the claims (default: the cluster's default)")
    group.addoption("--timeout", type=float, default=3600, help="seconds for any one thing (default: 3600)")
    group.addoption("--no-gpu", action="store_true", help="train on CPUs, whatever the nodes offer")
    group.addoption("--api", action="store_true", help="drill the api too, when the demo has passed")
    group.addoption("--keep", action="store_true", help="leave the namespace there, to look at it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A live cluster is drilled by `-m cluster` and by nothing else, not even by a bare `pytest`."""
    live = [item for item in items if item.get_closest_marker("cluster")]
    if live and "cluster" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item not in live]
        config.hook.pytest_deselected(items=live)
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("cluster") and (why := _lacks(item)):
            item.add_marker(pytest.mark.skip(reason=why))


def _lacks(item: pytest.Item) -> str:
    """A newcomer's machine may lack kubectl; CI must have it."""
    needs = item.path.name in ("test_against_mock.py", "test_api_steps.py")
    if needs and shutil.which("kubectl") is None and not os.environ.get("CI"):
        return "kubectl 1.27 or newer is not installed"
    return ""
