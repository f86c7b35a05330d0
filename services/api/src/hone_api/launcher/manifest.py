"""The Job of a stage, made from the PodTemplate of its kind.

Image, resources, node and queue are the operator's, in the template; the command, and which of the clients'
files a pod sees, are ours. No stage sees those of another job.
"""

import copy
import hashlib
import re
from pathlib import Path

from hone_api.launcher.cluster import Object
from hone_api.launcher.stages import Command
from hone_api.launcher.verdict import CONTAINER, QUEUE
from hone_contract.errors import BadConfiguration

MANAGER = "app.kubernetes.io/managed-by"
OURS = f"{MANAGER}=hone-api"
STAGE, NAME = "hone.dev/stage", "hone.dev/stage-name"
"""The label of a stage's Job and pods, which is the Job's name; the annotation has the stage's own name."""
_VOLUME = "data"
_LONGEST = 52
"""So that there is room for what the names of pods have beside."""
_KEPT_SECONDS = 86400


def job_name(stage: str) -> str:
    """The same for the same stage, and another for another."""
    name = stage.replace("/", "-")
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= _LONGEST:
        return name
    short = re.sub(r"[^a-z0-9]+", "-", name.lower())[: _LONGEST - 17].strip("-")
    return f"{short}-{hashlib.sha256(stage.encode()).hexdigest()[:16]}"


def template_name(stage: str) -> str:
    return f"hone-stage-{stage.rpartition('-')[2]}"


def make_job(stage: str, command: Command, template: Object, data: Path) -> Object:
    """`template` is a PodTemplate, `data` the folder that its volume of that name holds.

    Raises BadConfiguration for a template that no stage can be made of.
    """
    name = job_name(stage)
    ours = {MANAGER: "hone-api", STAGE: name}
    labels = template["metadata"].get("labels", {}) | ours
    pod = copy.deepcopy(template["template"])
    pod["metadata"] = pod.get("metadata", {})
    pod["metadata"]["labels"] = pod["metadata"].get("labels", {}) | ours
    pod["spec"]["restartPolicy"] = "Never"
    _fill(container_of(pod["spec"], CONTAINER, template["metadata"]["name"]), command, data)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": {NAME: stage}},
        "spec": {
            # Whether it is begun again is ours to say: the next time it may be another attempt of the job.
            "backoffLimit": 0,
            # And it has not failed before its pod has ended.
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            # Kueue lets it begin.
            **({"suspend": True} if QUEUE in labels else {}),
            "template": pod,
        },
    }


def container_of(pod: Object, name: str, template: str) -> Object:
    """Raises BadConfiguration for a template whose pod has none of this name."""
    for each in pod["containers"]:
        if each["name"] == name:
            found: Object = each
            return found
    raise BadConfiguration(f"PodTemplate {template} has no container named {name}; name one so")


def _fill(container: Object, command: Command, data: Path) -> None:
    container["command"] = [_literal(word) for word in command.arguments]
    container.pop("args", None)
    said = dict(command.environment)
    kept = [each for each in container.get("env", []) if each["name"] not in said]
    container["env"] = kept + [{"name": name, "value": _literal(value)} for name, value in said.items()]
    mounts = container.get("volumeMounts", [])
    container["volumeMounts"] = [each for each in mounts if each["name"] != _VOLUME]
    seen = [(path, True) for path in command.reads] + [(path, False) for path in command.writes]
    if seen and len(container["volumeMounts"]) == len(mounts):
        raise BadConfiguration(f"the container {CONTAINER} mounts no volume named {_VOLUME}; it must")
    container["volumeMounts"] += [_mount(path, data, read_only) for path, read_only in seen]


def _literal(text: str) -> str:
    """Kubernetes would take $(NAME) for a variable, and so show a client's words a Secret's value."""
    return text.replace("$", "$$")


def _mount(path: Path, data: Path, read_only: bool) -> Object:
    """Where the api has it, so that a command's words are right in both places."""
    found = path.resolve()
    if not found.is_relative_to(data):
        raise BadConfiguration(
            f"{path} leads out of {data}, where no stage can see it; use no links in there"
        )
    below = found.relative_to(data).as_posix()
    return {"name": _VOLUME, "mountPath": str(path), "subPath": below, "readOnly": read_only}
