"""The pods of an Indexed Job on nodes that are network namespaces of this machine, joined by a cable.

A node sees nothing but itself and the other one. What a pod gets from Kubernetes is taken from the Job as
it is in k8s/: arguments, environment, mounts, its own name, and the names that a headless Service gives.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]

_SECONDS = 180
_HOSTS = Path("/etc/netns")
"""Where `ip netns exec` finds the files that a namespace has in place of those in /etc."""


@dataclass(frozen=True)
class Pod:
    """One pod of a Job, as far as its process can tell."""

    job: Object
    index: int
    folders: dict[str, Path]
    """What stands for a volume, by the path where the pod has it."""

    @property
    def name(self) -> str:
        return f"{self.job['metadata']['name']}-{self.index}"

    @property
    def _spec(self) -> Object:
        return self.job["spec"]["template"]["spec"]

    @property
    def domain(self) -> str:
        """The Service by whose name others find it."""
        return str(self._spec["subdomain"])

    @property
    def container(self) -> Object:
        [container] = self._spec["containers"]
        return container

    @property
    def environment(self) -> dict[str, str]:
        """As the kubelet makes it: fields of the pod, and `$(NAME)` of what stands before it in the list."""
        metadata = self.job["spec"]["template"]["metadata"]
        index = str(self.index)
        fields = {
            **{f"metadata.labels['{name}']": value for name, value in metadata["labels"].items()},
            "metadata.labels['batch.kubernetes.io/job-name']": self.job["metadata"]["name"],
            "metadata.annotations['batch.kubernetes.io/job-completion-index']": index,
        }
        made = {"JOB_COMPLETION_INDEX": index}
        for each in self.container["env"]:
            if "value" in each:
                made[each["name"]] = _expanded(each["value"], made)
            elif "fieldRef" in each["valueFrom"]:
                made[each["name"]] = fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        return {name: self._here(value) for name, value in made.items()}

    @property
    def arguments(self) -> list[str]:
        return [self._here(_expanded(each, self.environment)) for each in self.container["args"]]

    def _here(self, text: str) -> str:
        for path, folder in self.folders.items():
            text = re.sub(rf"^{path}(?=/|$)", str(folder), text)
        return text


def _expanded(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], text)


@dataclass(frozen=True)
class Node:
    """A network namespace with one address."""

    name: str
    address: str

    def start(self, pod: Pod, told: Path) -> "subprocess.Popen[bytes]":
        """Run the pod's container here, in a session of its own; what it tells is appended to a file."""
        # Its own name must lead to its own address, as in every pod.
        enter = ["ip", "netns", "exec", self.name, "unshare", "--uts", "--", "sh", "-c"]
        command = [shutil.which("hone-trainer", path=Path(sys.executable).parent), *pod.arguments]
        kept = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with told.open("ab") as file:
            return subprocess.Popen(
                [*enter, 'hostname "$0" && exec "$@"', pod.name, *command],
                env=kept | pod.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


@contextmanager
def two_nodes() -> Iterator[list[Node]]:
    """Both, joined; gone again at the end, with whatever still runs in them."""
    mark = secrets.token_hex(3)
    nodes = [Node(f"hone-{mark}-{number}", f"10.231.7.{number + 1}") for number in range(2)]
    try:
        for node in nodes:
            _ip("netns", "add", node.name)
        _ip(*f"link add eth0 netns {nodes[0].name} type veth peer name eth0 netns {nodes[1].name}".split())
        for node in nodes:
            _ip("-n", node.name, "address", "add", f"{node.address}/30", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", node.name, "link", "set", device, "up")
        yield nodes
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.name], capture_output=True, check=False)
            shutil.rmtree(_HOSTS / node.name, ignore_errors=True)


def name_pods(nodes: list[Node], pods: list[Pod], service: Object) -> None:
    """What the names of a headless Service lead to on every node, if it selects the pods."""
    assert service["spec"]["clusterIP"] == "None"
    lines = ["127.0.0.1 localhost"]
    for node, pod in zip(nodes, pods, strict=True):
        labels = pod.job["spec"]["template"]["metadata"]["labels"]
        if (
            pod.domain == service["metadata"]["name"]
            and service["spec"]["selector"].items() <= labels.items()
        ):
            lines.append(f"{node.address} {pod.name}.{pod.domain} {pod.name}")
    for node in nodes:
        folder = _HOSTS / node.name
        folder.mkdir(parents=True)
        (folder / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")


def end(processes: list["subprocess.Popen[bytes]"]) -> list[int]:
    """Their exit codes; whoever does not end is killed."""
    try:
        return [each.wait(timeout=_SECONDS) for each in processes]
    finally:
        for each in processes:
            kill(each)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """As a node does that loses power: the container's processes all at once."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
