"""How a pod's status looks while it waits, runs and has ended."""

from kubectl import Object


def pending(pod: Object, why: str = "") -> Object:
    scheduled: Object = {"type": "PodScheduled", "status": "False" if why else "True"}
    if why:
        scheduled |= {"reason": "Unschedulable", "message": why}
    return {"phase": "Pending", "conditions": [scheduled]} | _each(
        pod, {"waiting": {"reason": "ContainerCreating"}}
    )


def pulling(pod: Object) -> Object:
    reason = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    return pending(pod) | _each(pod, {"waiting": reason})


def running(pod: Object, ready: bool = False) -> Object:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {"phase": "Running", "conditions": [condition]} | _each(pod, {"running": {}})


def ended(pod: Object, code: int, said: str) -> Object:
    state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "message": said}}
    return {"phase": "Failed" if code else "Succeeded"} | _each(pod, state)


def _each(pod: Object, state: Object) -> Object:
    containers = [
        {"name": each["name"], "image": each["image"], "restartCount": 0, "state": state}
        for each in pod["spec"]["containers"]
    ]
    return {"containerStatuses": containers}
