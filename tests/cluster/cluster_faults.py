"""What a cluster can do wrong, in one sentence with what to do next.

The table "When it does not come up" of docs/run-on-kubernetes.md, for machines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kubectl import Object

GPU = "nvidia.com/gpu"

_NO_IMAGE = ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName")
_LOAD = "load it into the node, or name your registry with --images"
_CODES = "docs/architecture.md tells the exit codes"
# Codes with which the same input fails again.
_FOR_GOOD = (65, 78)


@dataclass(frozen=True)
class Fault:
    """One thing that keeps something from coming up."""

    about: str
    """The object and the reason; the same fault has the same one the next time, whatever its message says."""
    message: str
    for_good: bool = False
    """Waiting does not help: what failed is not tried again."""


def stage_of(job: Object) -> str:
    """What the api began a Job for, such as `<job>/<attempt>-train`; empty: it is not the api's."""
    name: str = job["metadata"].get("annotations", {}).get("hone.dev/stage-name", "")
    return name


def faults(objects: list[Object]) -> list[Fault]:
    """Of a namespace's objects; causes before what they cause."""
    of = {"PersistentVolumeClaim": _of_claim, "Pod": _of_pod, "Job": _of_job}
    found: list[Fault] = []
    for kind, look in of.items():
        # A Job's own message says less than its pod's.
        if kind != "Job" or not any(each.for_good for each in found):
            found += [fault for each in objects if each["kind"] == kind for fault in look(each)]
    return sorted(found, key=lambda fault: not fault.for_good)


def _of_claim(claim: Object) -> Iterator[Fault]:
    if claim.get("status", {}).get("phase") == "Pending":
        name, spec = claim["metadata"]["name"], claim["spec"]
        wanted = spec.get("storageClassName", "the default class")
        yield Fault(
            f"claim {name}",
            f"claim {name} stays Pending: no storage class {wanted!r}, or it does not offer "
            f"{'/'.join(spec['accessModes'])}; choose one of `kubectl get storageclass` with --storage-class",
        )


def _of_pod(pod: Object) -> Iterator[Fault]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield _unscheduled(name, condition.get("message", ""))
    if status.get("reason") == "Evicted":
        yield Fault(
            f"pod {name} evicted",
            f"pod {name} was evicted: {status.get('message', '')}; give the node more room",
        )
    for container in _containers(status):
        yield from _of_container(pod, container)


def _unscheduled(pod: str, message: str) -> Fault:
    remedy = "give the node more, or free it"
    if f"Insufficient {GPU}" in message:
        remedy = "every GPU is taken: free one, or train on CPUs with --no-gpu"
    elif "Insufficient" in message:
        remedy = "the demo needs a node with 8 GB of memory and two cores that are free"
    elif "persistentvolumeclaim" in message.lower():
        remedy = "see `kubectl get storageclass`, and choose one with --storage-class"
    elif "taint" in message or "affinity" in message or "selector" in message:
        remedy = "let pods run on one of the nodes"
    return Fault(
        f"pod {pod} unscheduled", f"pod {pod} is on no node: {message or 'no reason told'}; {remedy}"
    )


def _of_container(pod: Object, container: Object) -> Iterator[Fault]:
    name, state = pod["metadata"]["name"], container.get("state", {})
    reason = state.get("waiting", {}).get("reason", "")
    said = state.get("waiting", {}).get("message", "")
    image = container.get("image", "")
    if reason in _NO_IMAGE:
        # ErrImagePull and ImagePullBackOff take turns.
        yield Fault(f"pod {name} image", f"pod {name} has no image {image} ({reason}): {said}; {_LOAD}")
    elif reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        yield Fault(f"pod {name} {reason}", f"pod {name}: {reason}: {said}; `kubectl describe pod` says more")
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated") or {}
    code = ended.get("exitCode", 0)
    if code in _FOR_GOOD or ended.get("reason") == "OOMKilled":
        yield _ended(name, container["name"], ended)


def _ended(pod: str, container: str, ended: Object) -> Fault:
    code, log = ended.get("exitCode"), _last_line(ended.get("message", ""))
    if ended.get("reason") == "OOMKilled":
        told, remedy = "took more memory than its limit", "raise resources.limits.memory"
    else:
        told, remedy = f"ended with {code}", _CODES
    if "Permission denied" in log:
        remedy = "the volume does not let user 10001 write; choose another class with --storage-class"
    said = f": {log}" if log else ""
    return Fault(f"pod {pod} {container}", f"pod {pod}: {container} {told}{said}; {remedy}", for_good=True)


def _of_job(job: Object) -> Iterator[Fault]:
    if stage_of(job):
        # The api begins it again, or says that its own job has failed.
        return
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] == "Failed" and condition["status"] == "True":
            name = job["metadata"]["name"]
            why = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            yield Fault(
                f"job {name}",
                f"job {name} failed: {why}; `kubectl logs job/{name}` of a run with --keep says more",
                for_good=True,
            )


def _containers(status: Object) -> list[Object]:
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else ""
