"""Docker and compose, as the tests of the images and of the compose file use them."""

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score import Fact, load_facts
from write import held_out_records, training_records, write

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BASE_IMAGE = "python:3.11-slim-bookworm"
TAG = "tests"
IMAGES = ("hone-trainer", "hone-merger", "hone-server", "hone-chat")
SERVICES = ("key", "trainer", "merger", "server", "chat")
WATCHING = ("prometheus", "grafana")

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

    def run(self, *arguments: str, timeout: float = 120, said: str = "") -> subprocess.CompletedProcess[str]:
        """One command of `docker compose`, whatever its exit code."""
        command = ["docker", "compose", "--project-name", self.project, "--env-file", str(self.env_file)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}
        return subprocess.run(
            [*command, "--file", str(ROOT / "compose.yaml"), *arguments],
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

    def container(self, service: str) -> Any:
        """What Docker knows about a service's container."""
        return inspect("container", "inspect", self("ps", "--all", "--quiet", service).strip())

    def python(self, service: str, code: str) -> str:
        """Runs Python in a new container of a service, with nothing but the service's own settings."""
        return self("run", "--rm", "--no-deps", "--entrypoint", "python3", service, "-c", code)

    @property
    def left(self) -> list[str]:
        """Containers, volumes and networks of this project."""
        label = f"label=com.docker.compose.project={self.project}"
        containers = docker("container", "ls", "--all", "--quiet", "--filter", label).split()
        volumes = docker("volume", "ls", "--quiet", "--filter", label).split()
        return [*containers, *volumes, *docker("network", "ls", "--quiet", "--filter", label).split()]


def write_run(folder: Path) -> list[Fact]:
    """A run spec and its data; returns the facts that are taught."""
    facts = load_facts(ROOT / "examples" / "hone-faq" / "facts.yaml")[:_FACTS]
    folder.mkdir()
    write(folder / "train.jsonl", training_records(facts))
    write(folder / "held_out.jsonl", held_out_records(facts))
    (folder / "run.yaml").write_text(_SPEC, encoding="utf-8")
    # The containers' user is another one.
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    return facts
