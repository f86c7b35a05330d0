"""The Deployment and the Service of a merged model's server, made from the operator's PodTemplate."""

import copy
import hashlib
import json
from typing import Any

from hone_api.launcher.cluster import Object
from hone_api.launcher.manifest import MANAGER, job_name
from hone_api.serving.found import HOLD, NAME, SERVES
from hone_contract.errors import BadConfiguration

TEMPLATE = "hone-model-server"
"""Without a PodTemplate of this name, none is made."""
SERVER = "hone.dev/model-server"
"""The label of all that belongs to one of them, which is its name."""
PORT = 8000
_CONTAINER = "server"
_MADE_OF = "hone.dev/template-digest"
_START_SECONDS = 3900
"""As k8s/base/server has it."""


def server_name(model: str) -> str:
    """Of both objects: the same for the same published model, and another for another."""
    return job_name(f"model/{model}")


def make_deployment(model: str, template: Object) -> Object:
    """Raises BadConfiguration for a template that no server can be made of."""
    name = server_name(model)
    pod = copy.deepcopy(template["template"])
    metadata = pod.setdefault("metadata", {})
    metadata["labels"] = metadata.get("labels", {}) | _ours(name)
    _tell_its_model(pod["spec"], model)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(model, template) | {"annotations": {NAME: model, _MADE_OF: _digest(pod)}},
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": _START_SECONDS,
            # The old pod goes first: for a second one there may be no GPU.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "selector": {"matchLabels": {SERVER: name}},
            "template": pod,
        },
    }


def make_service(model: str, template: Object) -> Object:
    """By which it is found as any other server."""
    said = {NAME: model}
    if (seconds := template["metadata"].get("annotations", {}).get(HOLD)) is not None:
        said[HOLD] = seconds
    metadata = _metadata(model, template)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata | {"labels": metadata["labels"] | {SERVES: "model"}, "annotations": said},
        "spec": {
            "selector": {SERVER: server_name(model)},
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def renewed(there: Object, made: Object) -> Object | None:
    """`there` as the template would have it now; None: it is so already. How many it is to be stays."""
    digest = made["metadata"]["annotations"][_MADE_OF]
    if there["metadata"].get("annotations", {}).get(_MADE_OF) == digest:
        return None
    # In a list, they have no kind of their own.
    new = copy.deepcopy(there) | {each: made[each] for each in ("apiVersion", "kind")}
    new["metadata"].setdefault("annotations", {})[_MADE_OF] = digest
    new["spec"]["template"] = made["spec"]["template"]
    return new


def _metadata(model: str, template: Object) -> Object:
    name = server_name(model)
    return {"name": name, "labels": template["metadata"].get("labels", {}) | _ours(name)}


def _ours(name: str) -> dict[str, str]:
    return {MANAGER: "hone-api", SERVER: name}


def _tell_its_model(pod: Object, model: str) -> None:
    for each in pod["containers"]:
        if each["name"] == _CONTAINER:
            words = each.get("args", [])
            # What stands behind "--" is vLLM's.
            end = words.index("--") if "--" in words else len(words)
            each["args"] = [*words[:end], "--model", model, *words[end:]]
            return
    raise BadConfiguration(f"PodTemplate {TEMPLATE} has no container named {_CONTAINER}; name one so")


def _digest(made: Any) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
