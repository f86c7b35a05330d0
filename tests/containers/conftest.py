"""An engine, the images and a running stack, each made once and undone at the end."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from compose_project import BASE_IMAGE, HERE, PROJECT, Compose, make_project, undone

# On two cores and from nothing, it took less than half of it.
_BUILD_SECONDS = 1500


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drills on the running stack come before the module that ends by removing it."""
    places = [place for place, item in enumerate(items) if item.path.parent == HERE]
    ordered = sorted((items[place] for place in places), key=lambda item: not _drills_the_stack(item))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def _drills_the_stack(item: pytest.Item) -> bool:
    return item.path.name == "test_drills.py" and "stack" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A Docker engine: the one that runs, or one of our own in CI and when asked for."""
    if _succeeds("docker", "info"):
        yield
        return
    if "CI" not in os.environ and os.environ.get("HONE_TEST_ENGINE") != "start":
        pytest.skip("no Docker engine runs here; `make test-containers`, as root, installs and starts one")
    script = str(HERE / "engine.sh")
    started = subprocess.run([script, "start"], stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    try:
        yield
    finally:
        subprocess.run([script, "stop", started.stdout.strip()], check=True, timeout=120)


@pytest.fixture(scope="session")
def base_image(engine: None) -> str:
    """The image that the Dockerfiles start from, or a stand-in where it cannot be pulled."""
    assert engine is None
    if not _succeeds("docker", "image", "inspect", BASE_IMAGE) and not _succeeds(
        "docker", "pull", BASE_IMAGE
    ):
        subprocess.run([str(HERE / "base_image.sh"), BASE_IMAGE], check=True, timeout=900)
    return BASE_IMAGE


@pytest.fixture(scope="session")
def images(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The images, built by one project: each has the project's name in it, so another one's are others."""
    assert base_image
    make_project(PROJECT, tmp_path_factory.mktemp("build"))("build", timeout=_BUILD_SECONDS)


@pytest.fixture(scope="session")
def compose(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The project with its images built and nothing started; whatever it made is removed at the end."""
    assert images is None
    with undone(make_project(PROJECT, tmp_path_factory.mktemp("compose"))) as project:
        yield project


@pytest.fixture(scope="session")
def stack(compose: Compose) -> Compose:
    """The whole line, from data to a server that is proven."""
    compose.up()
    return compose


def _succeeds(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0
    )
