"""What the drill says: a line for each thing that it sees, and at the end a summary to paste."""

import platform
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster_faults import GPU
from kubectl import Kubectl, KubectlFailed, Object


class DrillFailed(Exception):
    """What was seen is not what must be: what happened, the value, what to do next."""


@dataclass
class Step:
    """How one step came out."""

    name: str
    outcome: str = "not run"
    seconds: float = 0.0
    told: str = ""
    """What it found, or why it failed."""


@dataclass
class Record:
    """Everything that one run of the drill told."""

    steps: list[Step]
    about: list[str] = field(default_factory=list)
    """The cluster: versions, kinds of nodes. No names and no addresses, so that it can be shown."""
    _began: float = field(default_factory=time.monotonic)
    _now: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Notes how long it takes and what it raises. A failed one is told and noted, nothing more."""
        (step,) = (each for each in self.steps if each.name == name)
        start, self._now = time.monotonic(), name
        try:
            yield step
            step.outcome = "passed"
        except (DrillFailed, KubectlFailed) as error:
            step.outcome, step.told = "FAILED", " ".join(str(error).split())
        except BaseException as error:
            step.outcome, step.told = "FAILED", f"{type(error).__name__}: {error}"
            raise
        finally:
            step.seconds = time.monotonic() - start
            self.tell(f"{step.outcome}{f': {step.told}' if step.told else ''}")

    def tell(self, what: str) -> None:
        """One event, one line."""
        elapsed = int(time.monotonic() - self._began)
        line = " ".join(what.split())
        print(f"{elapsed // 60:3d}:{elapsed % 60:02d}  {self._now:<7}  {line}", flush=True)

    @property
    def passed(self) -> bool:
        return all(step.outcome == "passed" for step in self.steps)

    def failures(self) -> list[str]:
        return [f"{step.name}: {step.told}" for step in self.steps if step.outcome == "FAILED"]

    def summary(self) -> str:
        """Every step with its outcome, and what it ran on."""
        seconds = time.monotonic() - self._began
        lines = [
            f"drill of Hone: {'passed' if self.passed else 'FAILED'} in {seconds:.0f} s",
            *self.about,
            "",
        ]
        lines += [
            f"{step.name:<8} {step.outcome:<8} {step.seconds:6.0f} s  {step.told}".rstrip()
            for step in self.steps
        ]
        return "\n".join(lines)


def about_cluster(kubectl: Kubectl, nodes: list[Object] | None, gpu: bool) -> list[str]:
    """Lines on what the drill runs on."""
    versions = kubectl.json("version")
    server = versions.get("serverVersion", {}).get("gitVersion", "unknown")
    client = versions["clientVersion"]["gitVersion"]
    kinds = ["nodes: this account may not look at them"]
    if nodes is not None:
        counted = Counter(_kind_of_node(node) for node in nodes)
        kinds = [f"nodes: {count} × {kind}" for kind, count in counted.items()]
    trained = "on a GPU" if gpu else "on CPUs"
    return [f"cluster {server}, kubectl {client} on {platform.system()}", *kinds, f"trained {trained}"]


def _kind_of_node(node: Object) -> str:
    info, offers = node["status"]["nodeInfo"], node["status"]["allocatable"]
    labels = node["metadata"].get("labels", {})
    gpu = f"{offers[GPU]} × {labels.get('nvidia.com/gpu.product', 'GPU')}" if has_gpu(node) else "no GPU"
    parts = [
        f"{info['operatingSystem']}/{info['architecture']}",
        info["osImage"],
        f"kubelet {info['kubeletVersion']}",
        info["containerRuntimeVersion"],
        f"{offers['cpu']} cores, {offers['memory']}",
        gpu,
        labels.get("node.kubernetes.io/instance-type", ""),
    ]
    return ", ".join(part for part in parts if part)


def has_gpu(node: Object) -> bool:
    """Whether it offers NVIDIA's."""
    return int(node["status"]["allocatable"].get(GPU, "0")) > 0
