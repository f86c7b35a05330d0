"""An engine, the images and a running stack, each made once and undone at the end."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from compose_project import BASE_IMAGE, HERE, TAG, UP, Compose, write_run

# On two cores and from nothing, each of these took less than half of it.
_BUILD_SECONDS, _UP_SECONDS = 1500, 1200


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
def compose(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The project with its images built and nothing started; whatever it made is removed at the end."""
    assert base_image
    folder = tmp_path_factory.mktemp("compose")
    write_run(folder / "data")
    settings = {
        "HONE_TAG": TAG,
        "HONE_DATA": folder / "data",
        "HONE_RUN": "/data/run.yaml",
        "HONE_PORT": _free_port(),
    }
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    project = Compose("hone-tests", env_file)
    try:
        project("build", timeout=_BUILD_SECONDS)
        yield project
    finally:
        project.run("--profile", "chat", "down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="session")
def stack(compose: Compose) -> Compose:
    """The whole line, from data to a server that is proven."""
    up = compose.run(*UP, timeout=_UP_SECONDS)
    assert up.returncode == 0, up.stderr[-1000:] + compose("logs", "--tail", "40")
    return compose


def _succeeds(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
