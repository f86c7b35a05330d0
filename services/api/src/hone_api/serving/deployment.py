"""The Deployment and the Service of a merged model's server, made from the operator's PodTemplate."""

import copy
import hashlib
import json
from typing import Any

from hone_api.launcher.cluster import Object
from hone_api.launcher.manifest import MANAGER, container_of, job_name
from hone_api.serving.found import HOLD, NAME, SERVES
from hone_api.serving.merged import START_SECONDS

TEMPLATE = "hone-model-server"
"""Without a PodTemplate of this name, none is made."""
SERVER = "hone.dev/model-server"
"""The label of all that belongs to one of them, which is its name."""
PORT = 8000
_CONTAINER = "server"
_DIGEST = "hone.dev/digest"
_SAID = (NAME, HOLD, _DIGEST)


def server_name(model: str) -> str:
    """Of both objects: the same for the same published model, and another for another."""
    return job_name(f"model/{model}")


def make_deployment(model: str, template: Object) -> Object:
    """Raises BadConfiguration for a template that no server can be made of."""
    pod = copy.deepcopy(template["template"])
    pod["metadata"] = pod.get("metadata", {}) | {"labels": _labels(model, template)}
    _tell_its_model(pod["spec"], model)
    spec = {
        "replicas": 1,
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": START_SECONDS,
        # The old pod goes first: for a second one there may be no GPU.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "selector": {"matchLabels": {SERVER: server_name(model)}},
        "template": pod,
    }
    return _sealed("apps/v1", "Deployment", _labels(model, template), {NAME: model}, spec)


def make_service(model: str, template: Object) -> Object:
    """By which it is found as any other server."""
    said = {NAME: model}
    if (seconds := template["metadata"].get("annotations", {}).get(HOLD)) is not None:
        said[HOLD] = seconds
    spec = {
        "selector": {SERVER: server_name(model)},
        "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
    }
    return _sealed("v1", "Service", _labels(model, template) | {SERVES: "model"}, said, spec)


def renewed(there: Object, made: Object) -> Object | None:
    """`there` as it would be made now; None: it was made so. How many it is to be stays as it is."""
    metadata, wanted = there["metadata"], made["metadata"]
    if metadata.get("annotations", {}).get(_DIGEST) == wanted["annotations"][_DIGEST]:
        return None
    theirs = {name: value for name, value in metadata.get("annotations", {}).items() if name not in _SAID}
    spec = {name: value for name, value in made["spec"].items() if name != "replicas"}
    return {
        # In a list, they have no kind of their own.
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "metadata": metadata
        | {"labels": metadata["labels"] | wanted["labels"], "annotations": theirs | wanted["annotations"]},
        "spec": there["spec"] | spec,
    }


def _sealed(version: str, kind: str, labels: Object, annotations: Object, spec: Object) -> Object:
    """With a digest of what it was made of: what Kubernetes fills in later is no change of it."""
    digest = hashlib.sha256(json.dumps(_said([labels, annotations, spec]), sort_keys=True).encode())
    metadata = {
        "name": labels[SERVER],
        "labels": labels,
        "annotations": annotations | {_DIGEST: digest.hexdigest()[:16]},
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _said(made: Any) -> Any:
    """Without nulls, which one version of Kubernetes shows and the next one does not."""
    if isinstance(made, dict):
        return {name: _said(value) for name, value in made.items() if value is not None}
    return [_said(each) for each in made] if isinstance(made, list) else made


def _labels(model: str, template: Object) -> Object:
    """Those of its pods. The template's own may be of whoever applied it, and say that he applied these."""
    pod: Object = template["template"].get("metadata", {}).get("labels", {})
    return pod | {MANAGER: "hone-api", SERVER: server_name(model)}


def _tell_its_model(pod: Object, model: str) -> None:
    server = container_of(pod, _CONTAINER, TEMPLATE)
    words = server.get("args", [])
    # What stands behind "--" is vLLM's.
    end = words.index("--") if "--" in words else len(words)
    server["args"] = [*words[:end], "--model", model, *words[end:]]
