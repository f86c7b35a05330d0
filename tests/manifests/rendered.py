"""What is in k8s/, as objects: built by `kubectl`, which is what a user applies it with."""

import json
import os
import re
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
SERVING = "k8s/overlays/gpu"
TRAINING = "k8s/overlays/gpu/training"
MULTINODE = "k8s/overlays/gpu-multinode"
API = "k8s/overlays/gpu/api"
_WITH = " with "
_BUILT_UPON = [DEMO, SERVING, TRAINING, API]
# Elsewhere there is nothing for it to do. What is left out here belongs to all of them.
_ONLY_UPON = {
    name: overlays
    for names, overlays in (
        ("autoscaling autoscaling-keda spread", [DEMO, SERVING, API]),
        ("gateway ingress", [DEMO, SERVING]),
        ("hub-egress kueue training-metrics", [DEMO, TRAINING, API]),
        ("kubeflow multinode", [TRAINING]),
        ("api-gateway api-ingress model-servers scale-to-zero", [API]),
    )
    for name in names.split()
}
# What takes the place of another one.
_INSTEAD = {
    "kubeflow": ["multinode"],
    "autoscaling-keda": ["autoscaling"],
    "scale-to-zero": ["autoscaling", "autoscaling-keda"],
}
# As docs/run-on-kubernetes.md says; any other order does as well for the others.
_LATE = ["priority", "ingress", "gateway", "api-ingress", "api-gateway", "kubeflow"]


def upon(overlay: str, *names: str) -> str:
    """The source that is an overlay with components of these names, in the order that the guide says."""
    ordered = sorted(names, key=lambda name: _LATE.index(name) if name in _LATE else -1)
    return f"{overlay}{_WITH}{','.join(f'k8s/components/{name}' for name in ordered)}"


def all_upon(overlay: str) -> list[str]:
    """Everything that goes together: without what takes another one's place, and with it."""
    fitting = _fitting(overlay)
    replaced = {name for new in fitting for name in _INSTEAD.get(new, [])}
    return [
        upon(overlay, *(name for name in fitting if name not in left_out))
        for left_out in (_INSTEAD.keys(), replaced)
    ]


def _fitting(overlay: str) -> list[str]:
    names = [folder.removeprefix("k8s/components/") for folder in COMPONENTS]
    return [name for name in names if overlay in _ONLY_UPON.get(name, _BUILT_UPON)]


COMBINATIONS = [
    source
    for overlay in _BUILT_UPON
    for source in [*(upon(overlay, name) for name in _fitting(overlay)), *all_upon(overlay)]
]
"""Each component alone and all that go together, upon what is applied."""
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
    return built([overlay_of(source)], source.partition(_WITH)[2].split(","))


def built(resources: list[str], components: list[str], **more: Any) -> str:
    """What a kustomization of a user's own makes, beside the overlays."""
    with tempfile.TemporaryDirectory() as folder:
        # kustomize wants them relative to the file that names them.
        there = {
            name: [os.path.relpath(ROOT / each, folder) for each in paths]
            for name, paths in (("resources", resources), ("components", components))
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(there | more), encoding="utf-8")
        return kubectl("kustomize", folder)


def of_kind(source: str, *kinds: str) -> list[Object]:
    return [each for each in objects(source) if each["kind"] in kinds]


def pods(source: str) -> Iterator[tuple[str, Object, Object]]:
    """Where each pod is said, its metadata and its spec."""
    for each in objects(source):
        pod = _pod_of(each)
        if pod is not None:
            yield f"{source}: {each['kind']} {each['metadata']['name']}", pod.get("metadata", {}), pod["spec"]


def job_of(runtime: Object) -> Object:
    """The template of the Job that Kubeflow makes."""
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    template: Object = replicated["template"]
    return template


def _pod_of(each: Object) -> Object | None:
    if each["kind"] == "Pod":
        return each
    if each["kind"] == "PodTemplate":
        made: Object = each["template"]
        return made
    spec: Object = job_of(each)["spec"] if each["kind"] == "TrainingRuntime" else each.get("spec", {})
    return spec.get("template")


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


def selects(selector: Object, labels: Object) -> bool:
    """As Kubernetes matches labels; operators that are used here alone."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", [])
    )


def yaml_of(page: Path) -> list[Object]:
    """What a page shows as YAML."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [each for block in blocks for each in yaml.safe_load_all(block)]


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
