"""Looks at the namespace until something has come about, tells what changes, and gives up in time."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from cluster_faults import Fault, faults
from drill_plan import Plan
from drill_record import DrillFailed, Record
from kubectl import Kubectl, KubectlFailed, Object

Found = TypeVar("Found")

_KINDS = "persistentvolumeclaims,jobs,deployments,pods"
# A cluster's API is away for a moment now and then.
_FAILED_LOOKS = 10


@dataclass(frozen=True)
class Snapshot:
    """The namespace as it was at one moment."""

    objects: list[Object]

    def named(self, kind: str, name: str) -> Object | None:
        found = (each for each in self.objects if each["kind"] == kind and each["metadata"]["name"] == name)
        return next(found, None)

    def pods(self, label: str, value: str) -> list[Object]:
        """Those with this label that are not told to go."""
        return [
            each
            for each in self.objects
            if each["kind"] == "Pod"
            and each["metadata"].get("labels", {}).get(label) == value
            and "deletionTimestamp" not in each["metadata"]
        ]

    def behind(self, deployment: str) -> list[Object]:
        """Its pods, which have its name."""
        return self.pods("app.kubernetes.io/name", deployment)

    def pods_of(self, job: str) -> list[Object]:
        return self.pods("job-name", job)


@dataclass
class Watch:
    """What was told of the namespace so far."""

    kubectl: Kubectl
    plan: Plan
    record: Record
    _told: dict[str, str] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    """When each fault that is there now was seen first."""
    _forgiven: set[str] = field(default_factory=set)

    def until(self, what: str, found: Callable[[Snapshot], Found | None]) -> Found:
        """What `found` gives, once it is not None.

        Raises DrillFailed for a fault that stays, and when the time is over.
        """
        deadline, failed = time.monotonic() + self.plan.timeout, 0
        while True:
            try:
                snapshot = Snapshot(self.kubectl.items(_KINDS))
                if (result := found(snapshot)) is not None:
                    self._tell_changes(snapshot)
                    return result
                failed = 0
            except KubectlFailed as error:
                failed += 1
                if failed >= _FAILED_LOOKS or error.is_forbidden:
                    raise
                self.record.tell(f"kubectl failed, and is tried again: {error}")
            else:
                self._tell_changes(snapshot)
                self._check(what, snapshot)
            if time.monotonic() > deadline:
                raise DrillFailed(self._late(what))
            time.sleep(self.plan.poll)

    def job(self, name: str) -> None:
        """Until it is complete."""

        def complete(snapshot: Snapshot) -> bool | None:
            job = snapshot.named("Job", name)
            return True if job is not None and has_condition(job, "Complete") else None

        self.until(f"job {name} is complete", complete)

    def ended(self, pod: str) -> str:
        """Until the pod has ended; its phase."""

        def phase(snapshot: Snapshot) -> str | None:
            told = (snapshot.named("Pod", pod) or {}).get("status", {}).get("phase")
            return told if told in ("Succeeded", "Failed") else None

        return self.until(f"pod {pod} has ended", phase)

    def said(self, pod: str, event: str) -> Object:
        """Until the pod tells this event; the event. Raises DrillFailed when it ends before."""
        return self.heard(
            pod, repr(event), lambda told: next((each for each in told if each["event"] == event), None)
        )

    def heard(self, pod: str, what: str, found: Callable[[list[Object]], Found | None]) -> Found:
        """What `found` gives of the events that the pod has told, once it is not None.

        Raises DrillFailed when the pod ends before.
        """

        def look(snapshot: Snapshot) -> Found | None:
            here = snapshot.named("Pod", pod)
            if here is None:
                raise DrillFailed(f"pod {pod} is gone, and never said {what}; was it deleted or evicted?")
            if not has_begun(here):
                return None
            log = self.kubectl.logs(pod)
            told = found(events_in(log))
            if told is None and here["status"]["phase"] in ("Succeeded", "Failed"):
                raise DrillFailed(f"pod {pod} ended and never said {what}: {log.strip()[-500:]}")
            return told

        return self.until(f"pod {pod} says {what}", look)

    def forgive(self) -> None:
        """What is wrong now is told, and fails nothing that is waited for from now on."""
        self._forgiven |= self._since.keys()

    def _check(self, what: str, snapshot: Snapshot) -> None:
        now = time.monotonic()
        there = [fault for fault in faults(snapshot.objects) if fault.about not in self._forgiven]
        self._since = {fault.about: self._since.get(fault.about, now) for fault in there}
        for fault in there:
            if fault.for_good or now - self._since[fault.about] >= self.plan.patience:
                raise DrillFailed(f"waiting until {what}: {fault.message}")
            self._tell(f"{fault.about}!", fault)

    def _tell(self, key: str, fault: Fault) -> None:
        if key not in self._told:
            self._told[key] = fault.message
            self.record.tell(f"trouble, which may pass: {fault.message}")

    def _tell_changes(self, snapshot: Snapshot) -> None:
        now = {
            f"{each['kind'].lower()} {each['metadata']['name']}": _told_of(each) for each in snapshot.objects
        }
        for name, told in now.items():
            if self._told.get(name) != told:
                self.record.tell(f"{name}: {told}")
        gone = [name for name in self._told if name not in now and not name.endswith("!")]
        for name in gone:
            self.record.tell(f"{name}: gone")
            del self._told[name]
        self._told |= now

    def _late(self, what: str) -> str:
        seen = "; ".join(f"{name}: {told}" for name, told in self._told.items() if not name.endswith("!"))
        # What pods do not tell, such as a volume that cannot be mounted.
        warnings = self.kubectl.items("events", "--field-selector=type=Warning")
        said = "".join(f"; {each['reason']}: {each.get('message', '')}" for each in warnings[-3:])
        return (
            f"not so within {self.plan.timeout:g} s: {what}; there is {seen or 'nothing'}{said}; "
            "give it longer with --timeout, or look at it with --keep"
        )


def has_condition(each: Object, kind: str) -> bool:
    conditions = each.get("status", {}).get("conditions", [])
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def has_begun(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")


def events_in(log: str) -> list[Object]:
    """The lines that are events; others may be between them."""
    found = []
    for line in log.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and "event" in told:
            found.append(told)
    return found


def _told_of(each: Object) -> str:
    status = each.get("status", {})
    match each["kind"]:
        case "Job":
            ended = [kind for kind in ("Complete", "Failed") if has_condition(each, kind)]
            return ended[0].lower() if ended else f"{status.get('active', 0)} active"
        case "Deployment":
            return f"{status.get('availableReplicas', 0)} of {each['spec'].get('replicas', 1)} available"
        case "Pod":
            return _told_of_pod(each)
    return str(status.get("phase", "Pending"))


def _told_of_pod(pod: Object) -> str:
    status = pod.get("status", {})
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    waiting = [
        reason for each in containers if (reason := each.get("state", {}).get("waiting", {}).get("reason"))
    ]
    parts = [str(status.get("phase", "Pending")), *sorted({*waiting} - {"PodInitializing"})]
    if has_condition(pod, "Ready"):
        parts.append("ready")
    if restarts := sum(each.get("restartCount", 0) for each in containers):
        parts.append(f"{restarts} restarts")
    if "deletionTimestamp" in pod["metadata"]:
        parts.append("told to go")
    return ", ".join(parts)
