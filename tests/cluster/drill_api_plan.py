"""What the drill applies of the api: k8s/ as it is, for one node that needs no GPU, with the demo's base."""

import json
import os
from pathlib import Path

import yaml
from cluster_faults import GPU
from drill_plan import BASE, DEMO_BASE, ROOT, Plan, containers_of, one_node, patch
from kubectl import Object

MODEL = "smollm2-135m-instruct"
"""What clients call the base."""
SETTINGS: Object = {
    "launcher": "kubernetes",
    "kubernetes": {"slots": 1},
    # Where one node has room for one thing, adapters of checkpoints wait until nothing trains.
    "checkpoints": "after",
    # As examples/hone-faq/run.yaml.
    "models": {MODEL: {"base": DEMO_BASE, "learning_rate": 1e-3, "r": 16, "alpha": 32}},
    "servers": [{"url": "http://hone-server:8000", "base": DEMO_BASE}],
}
_OVERLAY = ROOT / "k8s" / "overlays" / "gpu" / "api"
_COMPONENT = ROOT / "k8s" / "components" / "model-servers"
_TEMPLATE = "PodTemplate"
AS_THE_DEMO = (3, 8)
"""Epochs and examples in a batch by which the demo learns its facts."""


def write_api(plan: Plan, folder: Path) -> Path:
    """The api, a server of its base, and the Job that brings the base: what overlays/gpu/api has too; with
    servers of merged models."""
    (folder / "hone-api.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    # kustomize takes a file only from below itself.
    job = folder / "base.yaml"
    job.write_text((_OVERLAY / "base.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    generated = [{"name": "hone-api", "behavior": "replace", "files": ["hone-api.yaml"]}]
    patches = [_claim(plan), *_commands(), _as_the_server_of_the_base(), *_where(plan)]
    more = {"components": [os.path.relpath(_COMPONENT, folder.resolve())], "configMapGenerator": generated}
    return plan.write(folder, [BASE / "api", BASE / "server", job], patches, **more)


def client_files() -> str:
    """The manifest of a ConfigMap with the client's program, and what it uploads."""
    files = [ROOT / "tests" / "cluster" / "client.py", ROOT / "examples" / "hone-faq" / "train.jsonl"]
    data = {file.name: file.read_text(encoding="utf-8") for file in files}
    metadata = {"name": "hone-drill"}
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def epochs_and_batch(plan: Plan) -> tuple[int, int]:
    """So that there is time to take pods away meanwhile: minutes, on two cores or a GPU."""
    return (50, 4) if plan.gpu_node else AS_THE_DEMO


def _claim(plan: Plan) -> Object:
    spec: Object = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    if plan.storage_class is not None:
        spec["storageClassName"] = plan.storage_class
    return patch("PersistentVolumeClaim", {"spec": spec})


def _commands() -> list[Object]:
    served = ["--host", "0.0.0.0", "--port", "8000", "--base", DEMO_BASE]
    return [
        patch("Deployment", containers_of({"name": "server", "args": served}), "hone-server"),
        patch("Job", containers_of({"name": "trainer", "args": ["import-base", DEMO_BASE]})),
    ]


def _as_the_server_of_the_base() -> Object:
    """Of a merged model's server: without a GPU."""
    made = yaml.safe_load((BASE / "server" / "deployment.yaml").read_text(encoding="utf-8"))
    (server,) = made["spec"]["template"]["spec"]["containers"]
    # Merged, the GPU would stay.
    resources = {"$patch": "replace", **server["resources"]}
    spec = {"containers": [{"name": "server", "resources": resources}]}
    return patch(_TEMPLATE, {"template": {"spec": spec}}, "hone-model-server")


def _where(plan: Plan) -> list[Object]:
    """The volumes are on one node, so whatever mounts one must be there."""
    affinity = one_node()
    (term,) = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    # A pod that follows itself too may be the first.
    term["labelSelector"]["matchExpressions"][0]["values"] += ["hone-api", "hone-check", "hone-model-server"]
    spec = {"affinity": affinity, **(plan.on_gpu_node() if plan.gpu_node else {})}
    patches = [patch(kind, {"spec": {"template": {"spec": spec}}}) for kind in ("Deployment", "Job")]
    patches.append(patch(_TEMPLATE, {"template": {"spec": spec}}))
    if plan.gpu_node:
        one = {"requests": {GPU: "1"}, "limits": {GPU: "1"}}
        stage = {"containers": [{"name": "stage", "resources": one}]}
        patches.append(patch(_TEMPLATE, {"template": {"spec": stage}}, "hone-stage-train"))
    return patches
