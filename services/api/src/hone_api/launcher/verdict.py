"""What a Job and its pods say of a stage: whether it goes on, with what it ended, and what it waits for."""

from collections.abc import Sequence

from hone_api.launcher.cluster import Object
from hone_api.launcher.marks import Exit
from hone_contract.errors import BadConfiguration, BadInput

CONTAINER = "stage"
QUEUE = "kueue.x-k8s.io/queue-name"
OUT_OF_MEMORY = "it took more memory than its limit (OOMKilled)"
_TIMED_OUT = 124
"""As `timeout` ends: it would take as long again."""
_CERTAIN = (0, BadInput.exit_code, BadConfiguration.exit_code)
"""Codes that mean what they say even of a pod that was about to be evicted."""
_NO_IMAGE = {
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "ImageInspectError",
    "InvalidImageName",
    "RegistryUnavailable",
}
_NO_CONTAINER = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_SHOWN = 300


def is_finished(job: Object) -> bool:
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def is_going(job: Object) -> bool:
    """Somebody has deleted it, and its pods are told to end."""
    return "deletionTimestamp" in job["metadata"]


def live(pods: Sequence[Object]) -> list[Object]:
    """Those that may still do something, on a node that does not answer too."""
    return [pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]


def newest(pods: Sequence[Object]) -> Object | None:
    return max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), default=None)


def exit_of(job: Object | None, pods: Sequence[Object]) -> Exit:
    """Of a stage whose Job is finished or gone, and of whose pods none is live."""
    if job is not None and condition(job, "Complete") is not None:
        return Exit(0, "")
    failed = condition(job, "Failed") if job is not None else None
    pod = newest(pods)
    if failed is not None and failed.get("reason") == "DeadlineExceeded":
        return Exit(_TIMED_OUT, short(failed.get("message", "")))
    if pod is None:
        return Exit(None, "its pod is gone" if job is not None else "its Job was deleted")
    return _exit_of_pod(pod)


def last_words(pod: Object) -> str:
    """The end of its log, as its node has kept it with its state."""
    return str((_terminated(pod) or {}).get("message", ""))


def waits_for(job: Object, pods: Sequence[Object]) -> str:
    """Why a stage does not run yet, for people. Empty: nothing that can be seen here.

    What stands before the colon is what it waits for; the rest may change from one look to the next.
    """
    if job["spec"].get("suspend"):
        queue = job["metadata"].get("labels", {}).get(QUEUE)
        return f"Waits for its turn in the queue {queue}" if queue else "Suspended: somebody stopped its Job"
    pod = newest(live(pods))
    return short(pod_waits_for(pod)) if pod is not None else ""


def has_no_pod_yet(job: Object, pods: Sequence[Object]) -> bool:
    """Whether events may say why: a quota, or a volume that cannot be mounted."""
    if job["spec"].get("suspend"):
        return False
    pod = newest(live(pods))
    return pod is None or any(each.get("reason") == "ContainerCreating" for each in _waiting(pod))


def pod_waits_for(pod: Object) -> str:
    """Why its containers do not run yet, as `waits_for` says it."""
    scheduled = condition(pod, "PodScheduled", "False")
    if scheduled is not None:
        return f"Waits for a node: {scheduled.get('message', scheduled.get('reason', ''))}"
    for each in _waiting(pod):
        reason, message = each.get("reason", ""), each.get("message", "")
        if reason in _NO_IMAGE:
            return f"Its image cannot be pulled: {reason}: {message}"
        if reason in _NO_CONTAINER:
            return f"Its container cannot be created: {reason}: {message}"
    disrupted = condition(pod, "DisruptionTarget")
    if is_going(pod) and disrupted is not None:
        # On a node that does not answer this lasts until the cluster has given the node up.
        return f"Its pod is being evicted: {disrupted.get('reason', '')}: {disrupted.get('message', '')}"
    return ""


def _exit_of_pod(pod: Object) -> Exit:
    status, ended = pod.get("status", {}), _terminated(pod)
    code = ended.get("exitCode") if ended is not None else None
    if status.get("reason") == "DeadlineExceeded":
        return Exit(_TIMED_OUT, short(status.get("message", "its time is over")))
    disrupted = condition(pod, "DisruptionTarget")
    why = disrupted or (status if status.get("reason") else None)
    if why is not None and code not in _CERTAIN:
        return Exit(None, short(f"{why.get('reason', '')}: {why.get('message', '')}"))
    if ended is None or code is None:
        return Exit(None, "its container was never seen to end")
    killed = ended.get("reason") == "OOMKilled"
    return Exit(code, OUT_OF_MEMORY if killed else "")


def _terminated(pod: Object) -> Object | None:
    for each in pod.get("status", {}).get("containerStatuses", []):
        if each["name"] == CONTAINER:
            found: Object | None = each.get("state", {}).get("terminated")
            return found
    return None


def _waiting(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return [each["state"]["waiting"] for each in every if "waiting" in each.get("state", {})]


def condition(each: Object, kind: str, status: str = "True") -> Object | None:
    for found in each.get("status", {}).get("conditions") or []:
        if (found["type"], found["status"]) == (kind, status):
            return dict(found)
    return None


def is_quota(message: str) -> bool:
    """Whether the cluster has refused something because of a ResourceQuota, by its own words."""
    return "exceeded quota" in message


def short(text: str) -> str:
    """As much of it as people read, in one line."""
    return " ".join(text.split())[:_SHOWN]
