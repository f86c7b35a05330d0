"""Docker and compose, as the tests of the images and of the compose file use them."""

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score import Fact, load_facts
from write import held_out_records, training_records, write

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BASE_IMAGE = "python:3.11-slim-bookworm"
TAG = "tests"
PROJECT = "hone-tests"
IMAGES = ("hone-trainer", "hone-merger", "hone-server", "hone-chat", "hone-api")
SERVICES = ("key", "trainer", "merger", "server", "chat")
TUNING = ("base", "base-server", "api")
WATCHING = ("prometheus", "grafana")

# On two cores and from nothing, it took less than half of it.
UP_SECONDS = 1200
# A smaller run than the demo's, which still learns what it is asked here.
_FACTS = 12
_SPEC = """\
name: hone-faq
model: {name: demo:smollm2-135m-instruct}
data: {train: train.jsonl, eval: held_out.jsonl}
lora: {r: 16, alpha: 32}
training: {epochs: 4, batch_size: 8, learning_rate: 1e-3, warmup_steps: 5}
"""


def _readme_commands() -> list[list[str]]:
    """What the README tells a newcomer to type, as the words after `docker compose`."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    typed = [shlex.split(line, comments=True) for line in lines if line.startswith("docker compose ")]
    return [words[2:] for words in typed]


UP, CHAT, DOWN = _readme_commands()


def docker(*arguments: str, timeout: float = 120) -> str:
    """What one docker command prints; AssertionError with its last words when it fails."""
    finished = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)
    assert finished.returncode == 0, f"docker {' '.join(arguments)}: {finished.stderr[-2000:]}"
    return finished.stdout


def inspect(*arguments: str) -> Any:
    """What Docker knows about one image or container."""
    return json.loads(docker(*arguments))[0]


@dataclass(frozen=True)
class Compose:
    """One project of compose.yaml, told everything by an env file, as a user's `.env` would."""

    project: str
    env_file: Path
    overrides: tuple[Path, ...] = ()
    """What a user would have in a `compose.override.yaml`."""

    def run(self, *arguments: str, timeout: float = 120, said: str = "") -> subprocess.CompletedProcess[str]:
        """One command of `docker compose`, whatever its exit code."""
        command = ["docker", "compose", "--project-name", self.project, "--env-file", str(self.env_file)]
        files = [f"--file={path}" for path in (ROOT / "compose.yaml", *self.overrides)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}
        return subprocess.run(
            [*command, *files, *arguments],
            input=said,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
        )

    def __call__(self, *arguments: str, timeout: float = 120) -> str:
        """What one command prints; AssertionError with its last words when it fails."""
        finished = self.run(*arguments, timeout=timeout)
        assert finished.returncode == 0, f"{' '.join(arguments)}: {finished.stderr[-3000:]}"
        return finished.stdout

    def up(self) -> None:
        """The whole line, from data to a server that is proven; AssertionError with the last words of all."""
        up = self.run(*UP, timeout=UP_SECONDS)
        assert up.returncode == 0, up.stderr[-1000:] + self("logs", "--tail", "40")

    def container(self, service: str) -> Any:
        """What Docker knows about a service's container."""
        return inspect("container", "inspect", self("ps", "--all", "--quiet", service).strip())

    def told(self, service: str) -> str:
        """What a service's container told since it was started last."""
        container = self.container(service)
        command = ["docker", "logs", "--since", container["State"]["StartedAt"], container["Id"]]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=60
        ).stdout

    @property
    def address(self) -> str:
        """Where the server's port is published."""
        return f"http://{self('port', 'server', '8000').strip()}"

    @property
    def key(self) -> str:
        """What clients of the server must send."""
        return self("exec", "server", "cat", "/keys/api-key")

    def python(self, service: str, code: str) -> str:
        """Runs Python in a new container of a service, with nothing but the service's own settings."""
        return self("run", "--rm", "--no-deps", "--entrypoint", "python3", service, "-c", code)

    def store(self, *arguments: str) -> str:
        """What `hone-store` prints, in a new container."""
        return self("run", "--rm", "--no-deps", "--entrypoint", "hone-store", "trainer", *arguments)

    @property
    def left(self) -> list[str]:
        """Containers, volumes and networks of this project."""
        label = f"label=com.docker.compose.project={self.project}"
        containers = docker("container", "ls", "--all", "--quiet", "--filter", label).split()
        volumes = docker("volume", "ls", "--quiet", "--filter", label).split()
        return [*containers, *volumes, *docker("network", "ls", "--quiet", "--filter", label).split()]


@contextmanager
def undone(project: Compose) -> Iterator[Compose]:
    """A project of which nothing is left afterwards."""
    try:
        yield project
    finally:
        project.run("--profile", "chat", "down", "--volumes", "--remove-orphans")


def make_project(
    name: str, folder: Path, *, overrides: tuple[Path, ...] = (), facts: int = _FACTS, more: str = ""
) -> Compose:
    """A project with a run of its own (see `write_run`) and a free port; nothing is started."""
    write_run(folder / "data", facts, more)
    settings = {
        "HONE_TAG": TAG,
        "HONE_DATA": folder / "data",
        "HONE_RUN": "/data/run.yaml",
        "HONE_PORT": _free_port(),
    }
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return Compose(name, env_file, overrides)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def write_run(folder: Path, count: int = _FACTS, more: str = "") -> list[Fact]:
    """A run spec, with `more` lines, and its data; returns the facts that are taught."""
    facts = load_facts(ROOT / "examples" / "hone-faq" / "facts.yaml")[:count]
    folder.mkdir()
    write(folder / "train.jsonl", training_records(facts))
    write(folder / "held_out.jsonl", held_out_records(facts))
    (folder / "run.yaml").write_text(_SPEC + more, encoding="utf-8")
    # The containers' user is another one.
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    return facts
