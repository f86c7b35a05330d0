"""What the drill applies: k8s/ as it is, in a namespace of its own, with what one cluster needs changed.

Every change is a kustomization in a temporary folder that takes k8s/ as its resource, as a user would write.
"""

import json
import os
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cluster_faults import GPU
from kubectl import Object

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "k8s" / "overlays" / "cpu-demo"
BASE = ROOT / "k8s" / "base"
EXAMPLE = "/examples/hone-faq"
"""Where the trainer's image has the example."""
NAMES = ("hone-trainer", "hone-merger", "hone-server", "hone-chat", "hone-api")
DEMO_BASE = "demo:smollm2-135m-instruct"
_SPEC: Object = {
    "model": {"name": DEMO_BASE},
    "data": {"train": f"{EXAMPLE}/train.jsonl", "eval_fraction": 0},
    "lora": {"r": 16, "alpha": 32},
}


@dataclass(frozen=True)
class Run:
    """A run beside the demo's: its Jobs end with `name`, and so does their file in the store."""

    name: str
    spec: Object


# The model's own name, so that what comes of it is a new version; short, for it need not be a good one.
SECOND = Run(
    "second",
    _SPEC
    | {
        "name": "hone-faq",
        "training": {"max_steps": 24, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 5},
    },
)
# Longer than anybody waits, on a GPU too: it is deleted when it was seen to go on.
INTERRUPTED = Run(
    "interrupted",
    _SPEC
    | {
        "name": "hone-drill",
        "training": {"max_steps": 20000, "batch_size": 8, "learning_rate": 1e-4},
        "checkpoints": {"save_steps": 5},
    },
)


@dataclass(frozen=True)
class Images:
    """Where the nodes find the images: PREFIX/hone-…:TAG, or the names as they are in k8s/."""

    prefix: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "Images":
        """`PREFIX:TAG`, either of which may be left out. A port is no tag: registry:5000/hone."""
        head, colon, tail = text.rpartition(":")
        if not colon or "/" in tail:
            head, tail = text, ""
        return cls(head.rstrip("/"), tail or _version())

    def place(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def full(self, name: str) -> str:
        return f"{self.place(name)}:{self.tag}"


@dataclass(frozen=True)
class Plan:
    """What differs from cluster to cluster."""

    namespace: str
    images: Images
    storage_class: str | None = None
    gpu_node: str | None = None
    """The host name of a node that offers a GPU; None: train on CPUs."""
    timeout: float = 3600
    """Seconds for any one thing that is waited for."""
    patience: float = 300
    """Seconds that a fault may last which can pass by itself, such as an image that is not found at once."""
    poll: float = 2
    keep: bool = False

    def demo(self, folder: Path) -> Path:
        """The cpu-demo overlay."""
        return self.write(folder, [DEMO], self._patches("hone-train", ["Job", "Deployment"], one_node=False))

    def training(self, folder: Path, run: Run) -> Path:
        """The trainer's Job alone, with a spec of its own."""
        (folder / "run.yaml").write_text(yaml.safe_dump(run.spec), encoding="utf-8")
        patches = [*self._patches("hone-train", ["Job"]), patch("Job", _trainer_with_config())]
        generated = [{"name": "hone-run", "files": ["run.yaml"]}]
        return self.write(folder, [BASE / "trainer"], patches, run, configMapGenerator=generated)

    def merging(self, folder: Path, run: Run) -> Path:
        """The merger's Job alone."""
        return self.write(folder, [BASE / "merger"], self._patches("", ["Job"]), run)

    def files_pod(self, folder: Path) -> Path:
        """The pod that has the store mounted, where the volume is."""
        # kustomize takes a file only from below itself.
        copied = folder / "files-pod.yaml"
        copied.write_text((ROOT / "k8s" / "files-pod.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        affinity = {"op": "add", "path": "/spec/affinity", "value": one_node()}
        patches = [{"patch": yaml.safe_dump([affinity]), "target": {"kind": "Pod"}}]
        if self.gpu_node:
            patches.append(patch("Pod", {"spec": self.on_gpu_node()}))
        return self.write(folder, [copied], patches)

    def _patches(self, trainer: str, kinds: list[str], one_node: bool = True) -> list[Object]:
        """`trainer` is the Job that gets the GPU, among `kinds`."""
        patches: list[Object] = []
        if one_node:
            # The overlay has it already.
            affinity = (DEMO / "one-node.yaml").read_text(encoding="utf-8")
            patches += [{"patch": affinity, "target": {"kind": kind}} for kind in kinds]
        if self.storage_class is not None and not one_node:
            patches.append(patch("PersistentVolumeClaim", {"spec": {"storageClassName": self.storage_class}}))
        if self.gpu_node:
            patches += [patch(kind, {"spec": {"template": {"spec": self.on_gpu_node()}}}) for kind in kinds]
            if trainer:
                patches.append(patch("Job", _trainer_with_gpu(), trainer))
        return patches

    def on_gpu_node(self) -> Object:
        # One volume is on one node: were the server there first, the trainer could not follow to a GPU.
        return {
            "nodeSelector": {"kubernetes.io/hostname": self.gpu_node},
            "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
        }

    def write(
        self, folder: Path, resources: list[Path], patches: list[Object], run: Run | None = None, **more: Any
    ) -> Path:
        wanted: Object = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            # kustomize wants them relative to the file that names them.
            "resources": [os.path.relpath(path, folder.resolve()) for path in resources],
            "images": [self._image(name) for name in NAMES],
            "patches": patches,
            **more,
        }
        if run is not None:
            wanted["nameSuffix"] = f"-{run.name}"
            wanted["labels"] = [{"pairs": {"hone-run": f"hone-faq-{run.name}"}, "includeTemplates": True}]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
        return folder

    def _image(self, name: str) -> Object:
        # Only the trainer has the GPU, so only it needs the image for one.
        suffix = "-gpu" if self.gpu_node and name == "hone-trainer" else ""
        return {"name": name, "newName": self.images.place(name), "newTag": f"{self.images.tag}{suffix}"}


def new_namespace() -> str:
    return f"hone-drill-{secrets.token_hex(3)}"


def namespace_object(name: str) -> str:
    """Its manifest. Pods that do not keep to `restricted` are refused in it."""
    labels = {
        "app.kubernetes.io/part-of": "hone-drill",
        "pod-security.kubernetes.io/enforce": "restricted",
    }
    return json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def secret_object(key: str, name: str = "hone-api-key") -> str:
    """The manifest of a Secret that pods read their key from: by default server's and chat's."""
    metadata = {"name": name}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"HONE_API_KEY": key}}
    )


def patch(kind: str, change: Object, name: str | None = None) -> Object:
    """A strategic merge; kustomize wants a name in it, and goes by the target."""
    versions = {"Job": "batch/v1", "Deployment": "apps/v1"}
    whole = {"apiVersion": versions.get(kind, "v1"), "kind": kind, "metadata": {"name": "any"}, **change}
    return {
        "patch": yaml.safe_dump(whole),
        "target": {"kind": kind} if name is None else {"kind": kind, "name": name},
    }


def _trainer_with_gpu() -> Object:
    one = {"requests": {GPU: "1"}, "limits": {GPU: "1"}}
    return containers_of({"name": "trainer", "resources": one})


def _trainer_with_config() -> Object:
    arguments = ["train", "/config/run.yaml", "--run-id-file", "/store/run-ids/$(HONE_RUN)"]
    mount = {"name": "config", "mountPath": "/config", "readOnly": True}
    changed = containers_of({"name": "trainer", "args": arguments, "volumeMounts": [mount]})
    changed["spec"]["template"]["spec"]["volumes"] = [{"name": "config", "configMap": {"name": "hone-run"}}]
    return changed


def containers_of(*containers: Object) -> Object:
    return {"spec": {"template": {"spec": {"containers": [*containers]}}}}


def one_node() -> Object:
    """The affinity with which the demo keeps its pods where its volume is."""
    (operation,) = yaml.safe_load((DEMO / "one-node.yaml").read_text(encoding="utf-8"))
    affinity: Object = operation["value"]
    return affinity


def _version() -> str:
    project = ROOT / "services" / "server" / "pyproject.toml"
    version: str = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    return version
