"""Training that others decide upon: Kueue, which says when, and Kubeflow, whose TrainJob it can be."""

import copy
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rendered import (
    DEMO,
    K8S,
    MULTINODE,
    ROOT,
    TRAINING,
    Object,
    containers,
    job_of,
    kubectl,
    objects,
    of_kind,
    pods,
    upon,
    yaml_of,
)

PAGE = ROOT / "docs" / "scaling-out.md"
QUEUE = "kueue.x-k8s.io/queue-name"
GPU = "nvidia.com/gpu"


# -- Kueue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", [TRAINING, MULTINODE])
def test_what_takes_a_gpu_is_queued_and_nothing_else(overlay: str) -> None:
    source = upon(overlay, "kueue")
    queued = {name for name, job in _jobs(source).items() if QUEUE in job["metadata"]["labels"]}
    assert queued == {name for name, job in _jobs(source).items() if GPU in str(job["spec"])} != set()
    assert {name for name, job in _jobs(source).items() if job["spec"].get("suspend")} == queued
    # Kueue would take a pod with the label for one of its own.
    assert not any(QUEUE in metadata["labels"] for _, metadata, _ in pods(source))


@pytest.mark.parametrize("overlay", [DEMO, TRAINING, MULTINODE])
def test_the_queue_changes_nothing_else_of_the_jobs(overlay: str) -> None:
    plain, queued = _jobs(overlay), _jobs(upon(overlay, "kueue"))
    assert plain.keys() == queued.keys()
    for name, job in queued.items():
        spec = {key: value for key, value in job["spec"].items() if key != "suspend"}
        assert spec == plain[name]["spec"]


@pytest.mark.parametrize("overlay", [DEMO, TRAINING, MULTINODE])
def test_the_label_names_the_queue_that_is_there(overlay: str) -> None:
    _names_the_queue(objects(upon(overlay, "kueue")))


def test_the_label_follows_the_name_of_a_queue_that_the_overlay_itself_brings(tmp_path: Path) -> None:
    """There a nameSuffix is put to what a component brings as well."""
    built = _within(tmp_path, "kueue", "priority")
    assert _names_the_queue(built) != "hone"
    classes = {each["metadata"]["name"] for each in built if each["kind"] == "PriorityClass"}
    for job in (each for each in built if each["kind"] == "Job"):
        assert job["spec"]["template"]["spec"]["priorityClassName"] in classes


def test_the_queue_that_the_guide_shows_an_admin_admits_the_job() -> None:
    shown = {each["kind"]: each for each in yaml_of(PAGE) if "kind" in each}
    (local,) = of_kind(upon(TRAINING, "kueue"), "LocalQueue")
    assert shown["ClusterQueue"]["metadata"]["name"] == local["spec"]["clusterQueue"]
    assert shown["ClusterQueue"]["apiVersion"] == local["apiVersion"]
    (group,) = shown["ClusterQueue"]["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert flavor["name"] == shown["ResourceFlavor"]["metadata"]["name"]
    quota = {each["name"]: str(each["nominalQuota"]) for each in flavor["resources"]}
    # In the same order: Kueue's own rule.
    assert list(quota) == group["coveredResources"]
    (trainer,) = (each for each in containers(TRAINING) if each.image == "hone-trainer")
    for name, asked in trainer.spec["resources"]["requests"].items():
        # What no flavor covers is never admitted.
        assert _number(quota[name]) >= _number(asked), name


def _jobs(source: str) -> dict[str, Object]:
    return {job["metadata"]["name"]: job for job in of_kind(source, "Job")}


def _names_the_queue(built: list[Object]) -> str:
    (queue,) = (each["metadata"]["name"] for each in built if each["kind"] == "LocalQueue")
    labels = [each["metadata"]["labels"] for each in built if each["kind"] == "Job"]
    assert {each[QUEUE] for each in labels if QUEUE in each} == {queue}
    return str(queue)


def _within(folder: Path, *names: str) -> list[Object]:
    """With the components in the overlay's own kustomization, as the guide says."""
    shutil.copytree(K8S, folder / "k8s")
    overlay = folder / TRAINING
    components = [f"../../../components/{name}" for name in names]
    with (overlay / "kustomization.yaml").open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump({"components": components}))
    return list(yaml.safe_load_all(kubectl("kustomize", str(overlay))))


def _number(quantity: str) -> int:
    found = re.fullmatch(r"(\d+)(Gi)?", quantity)
    assert found, quantity
    return int(found[1]) * (2**30 if found[2] else 1)


# -- Kubeflow --------------------------------------------------------------------------------------

OTHERS = ["kueue", "priority", "training-metrics"]


@pytest.mark.parametrize("others", [[], OTHERS], ids=["alone", "with others"])
def test_the_pod_that_kubeflow_makes_is_the_jobs(others: list[str]) -> None:
    (job,) = (each for each in _jobs(_upon_training(*others)).values() if _trains(each))
    (runtime,) = of_kind(_upon_training(*others, "kubeflow"), "TrainingRuntime")
    expected = copy.deepcopy(job["spec"])
    # By this name Kubeflow finds the container.
    expected["template"]["spec"]["containers"][0]["name"] = "node"
    # These two are the TrainJob's.
    for name in ("suspend", "ttlSecondsAfterFinished"):
        expected.pop(name, None)
    assert job_of(runtime)["spec"] == expected


def test_the_train_job_takes_the_place_of_the_job_alone() -> None:
    before, after = objects(TRAINING), objects(upon(TRAINING, "kubeflow"))
    gone = {(each["kind"], each["metadata"]["name"]) for each in before} - {
        (each["kind"], each["metadata"]["name"]) for each in after
    }
    assert gone == {("Job", "hone-train-my-model-1")}
    assert len(after) == len(before) + 1


def test_the_train_job_is_of_the_runtime_of_its_namespace() -> None:
    source = upon(TRAINING, "kubeflow")
    (job,), (runtime,) = of_kind(source, "TrainJob"), of_kind(source, "TrainingRuntime")
    group = runtime["apiVersion"].partition("/")[0]
    assert job["spec"]["runtimeRef"] == {
        "apiGroup": group,
        "kind": "TrainingRuntime",
        "name": runtime["metadata"]["name"],
    }
    # One of another run must not be changed.
    assert job["metadata"]["name"] == runtime["metadata"]["name"] == "hone-train-my-model-1"


def test_kubeflow_finds_what_it_trains_with() -> None:
    """By these names and this label its torch plugin does; without `trainer` it sets no variable."""
    source = upon(TRAINING, "kubeflow")
    (job,), (runtime,) = of_kind(source, "TrainJob"), of_kind(source, "TrainingRuntime")
    assert "torch" in runtime["spec"]["mlPolicy"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    assert job_of(runtime)["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert job["spec"]["trainer"]["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"] == 1


def test_the_train_job_is_queued_as_the_job_would_be() -> None:
    (job,) = of_kind(_upon_training("kueue", "kubeflow"), "TrainJob")
    (own,) = (each for each in _jobs(_upon_training("kueue")).values() if _trains(each))
    assert job["metadata"]["labels"] == own["metadata"]["labels"]
    assert QUEUE in job["metadata"]["labels"]


def _upon_training(*names: str) -> str:
    return upon(TRAINING, *names) if names else TRAINING


def _trains(job: Object) -> bool:
    return str(job["metadata"]["labels"]["app.kubernetes.io/name"]) == "hone-trainer"
