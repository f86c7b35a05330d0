"""What is in k8s/, as objects: built by `kubectl`, which is what a user applies it with."""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from discovery import discovery

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
GUIDE = ROOT / "docs" / "run-on-kubernetes.md"

Object = dict[str, Any]

_FOLDERS = sorted(path.parent.relative_to(ROOT).as_posix() for path in K8S.rglob("kustomization.yaml"))
COMPONENTS = [folder for folder in _FOLDERS if folder.startswith("k8s/components/")]
KUSTOMIZATIONS = [folder for folder in _FOLDERS if folder not in COMPONENTS]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in K8S.glob("*.yaml"))
CHAT = "kubectl run hone-chat"
DEMO = "k8s/overlays/cpu-demo"
_WITH = " with "
_BUILT_UPON = [DEMO, "k8s/overlays/gpu", "k8s/overlays/gpu/training"]
COMBINATIONS = [
    f"{overlay}{_WITH}{','.join(components)}"
    for overlay in _BUILT_UPON
    for components in [*([each] for each in COMPONENTS), COMPONENTS]
]
"""Each component alone and all of them, upon what is applied."""
SOURCES = [*KUSTOMIZATIONS, *FILES, CHAT, *COMBINATIONS]


def overlay_of(source: str) -> str:
    """The source without the components upon it."""
    return source.partition(_WITH)[0]


@dataclass(frozen=True)
class Container:
    """One container, with the pod that it is in."""

    where: str
    spec: Object
    pod: Object

    @property
    def image(self) -> str:
        """Its image's name, without registry and tag."""
        return str(self.spec["image"]).rpartition("/")[2].partition(":")[0]

    @property
    def mounts(self) -> dict[str, str]:
        """Where each volume is mounted."""
        return {mount["mountPath"]: mount["name"] for mount in self.spec.get("volumeMounts", [])}

    @property
    def serves(self) -> bool:
        return any(port["name"] == "http" for port in self.spec.get("ports", []))


@cache
def objects(source: str) -> list[Object]:
    """The objects that one of SOURCES makes."""
    if source == CHAT:
        return [_chat_pod()]
    if source in FILES:
        text = (ROOT / source).read_text(encoding="utf-8")
    else:
        text = _combined(source) if _WITH in source else kubectl("kustomize", source)
    return list(yaml.safe_load_all(text))


def _combined(source: str) -> str:
    overlay, components = overlay_of(source), source.partition(_WITH)[2]
    with tempfile.TemporaryDirectory() as folder:
        # kustomize wants them relative to the file that names them.
        there = [os.path.relpath(ROOT / each, folder) for each in (overlay, *components.split(","))]
        wanted = {"resources": there[:1], "components": there[1:]}
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
        return kubectl("kustomize", folder)


def of_kind(source: str, *kinds: str) -> list[Object]:
    return [each for each in objects(source) if each["kind"] in kinds]


def pods(source: str) -> Iterator[tuple[str, Object, Object]]:
    """Where each pod is said, its metadata and its spec."""
    for each in objects(source):
        pod = each if each["kind"] == "Pod" else each.get("spec", {}).get("template")
        if pod is not None:
            yield f"{source}: {each['kind']} {each['metadata']['name']}", pod.get("metadata", {}), pod["spec"]


def containers(source: str) -> Iterator[Container]:
    """Every container, those that run before the others too."""
    for where, _, pod in pods(source):
        for spec in [*pod.get("initContainers", []), *pod["containers"]]:
            yield Container(f"{where}, container {spec['name']}", spec, pod)


def kubectl(*arguments: str) -> str:
    """What kubectl prints; it talks to no cluster."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.fail(
            "kubectl is not installed, and k8s/ is built with it. Install 1.27 or newer: "
            "https://kubernetes.io/docs/tasks/tools/",
            pytrace=False,
        )
    finished = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert finished.returncode == 0, f"kubectl {shlex.join(arguments)}: {finished.stderr}"
    return finished.stdout


def chat_commands(page: Path) -> list[list[str]]:
    """Every `kubectl run` that a page shows, as words; `$(cat FILE)` is the file's content."""
    lines = page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [_words(line) for line in lines if line.startswith("kubectl run ")]


def _words(line: str) -> list[str]:
    def read(word: str) -> str:
        option, found, file = word.partition("$(cat ")
        return option + (ROOT / file.removesuffix(")")).read_text(encoding="utf-8") if found else word

    return [read(word) for word in shlex.split(line, comments=True)]


def _chat_pod() -> Object:
    command = chat_commands(GUIDE)[0]
    # kubectl makes no dry run of what it would attach to.
    arguments = [word for word in command[1:] if word not in ("-it", "-i", "--rm")]
    with discovery() as server:
        pod: Object = json.loads(
            kubectl("--server", server, *arguments[:1], "--dry-run=client", "--output=json", *arguments[1:])
        )
    return pod
