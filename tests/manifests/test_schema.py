"""Every object is one that Kubernetes knows, from the oldest supported version to the newest."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions, major_minor
from packaging.version import Version
from rendered import DEMO, KUSTOMIZATIONS, ROOT, SOURCES, job_of, kubectl, objects, of_kind, yaml_of

OLDEST_SUPPORTED = "1.29"
SUPPORTED = [
    version
    for version in sorted({major_minor(each) for each in all_versions()}, key=Version)
    if Version(version) >= Version(OLDEST_SUPPORTED)
]
# Fields by type, as Kubernetes 1.20 has them; the schemas of that version are in no current package.
FIELDS_1_20: dict[str, dict[str, str]] = json.loads(
    Path(__file__).with_name("kubernetes-1.20.json").read_text(encoding="utf-8")
)
# Fields by type of kinds that are no part of Kubernetes, as far as they are used here:
# https://prometheus-operator.dev/docs/api-reference/api/, and the Go types in kubernetes-sigs' kueue, jobset
# and gateway-api, in kedacore/keda, and in kubeflow/trainer, of which what 2.0 and 2.2 both have.
CUSTOM: dict[str, dict[str, str]] = json.loads(
    Path(__file__).with_name("custom-resources.json").read_text(encoding="utf-8")
)
ADMINS = {"ResourceFlavor", "ClusterQueue"}
KINDS_1_20 = {
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
}


@pytest.mark.parametrize("source", KUSTOMIZATIONS)
def test_every_kustomization_builds(source: str) -> None:
    assert objects(source)


def test_kubectl_is_new_enough_for_the_kustomizations() -> None:
    client = json.loads(kubectl("version", "--client", "--output=json"))
    assert Version(client["kustomizeVersion"]) >= Version("5.0"), "install kubectl 1.27 or newer"


@pytest.mark.parametrize("version", [SUPPORTED[0], SUPPORTED[-1]])
@pytest.mark.parametrize("source", SOURCES)
def test_every_object_is_valid_in_the_oldest_and_the_newest_version(source: str, version: str) -> None:
    # What needs a newer one says so in the guide.
    version = max(version, _oldest(source), key=Version)
    for each in objects(source):
        custom = f"{each['apiVersion']} {each['kind']}"
        if custom in CUSTOM:
            assert list(_unknown(each, custom, each["kind"], CUSTOM)) == []
            continue
        # Without a schema for the kind, or with another version than the asked one, nothing was proven.
        assert kubernetes_validate.validate(each, version, strict=True) == version


@pytest.mark.parametrize("version", [SUPPORTED[0], SUPPORTED[-1]])
@pytest.mark.parametrize("source", SOURCES)
def test_the_job_that_kubeflow_makes_is_valid_too(source: str, version: str) -> None:
    for runtime in of_kind(source, "TrainingRuntime"):
        job = {"apiVersion": "batch/v1", "kind": "Job", **job_of(runtime)}
        assert kubernetes_validate.validate(job, version, strict=True) == version


def test_the_queue_that_the_guide_shows_an_admin_is_known() -> None:
    shown = [each for each in yaml_of(ROOT / "docs" / "scaling-out.md") if each.get("kind") in ADMINS]
    assert {each["kind"] for each in shown} == ADMINS
    for each in shown:
        custom = f"{each['apiVersion']} {each['kind']}"
        assert list(_unknown(each, custom, each["kind"], CUSTOM)) == []


def test_the_demo_holds_nothing_that_is_newer_than_kubernetes_1_20() -> None:
    for each in objects(DEMO):
        assert (each["apiVersion"], each["kind"]) in KINDS_1_20
        assert list(_unknown(each, each["kind"], each["kind"], FIELDS_1_20)) == []


def test_a_newer_field_is_noticed() -> None:
    job = {
        "spec": {"podFailurePolicy": {}, "template": {"spec": {"containers": [{"restartPolicy": "Always"}]}}}
    }
    found = list(_unknown(job, "Job", "Job", FIELDS_1_20))
    assert found == ["Job.spec.podFailurePolicy", "Job.spec.template.spec.containers.restartPolicy"]


def _oldest(source: str) -> str:
    """The first version that knows all fields; successPolicy came with 1.31."""
    return "1.31" if "multinode" in source else OLDEST_SUPPORTED


def _unknown(value: Any, type_name: str, path: str, types: dict[str, dict[str, str]]) -> list[str]:
    """Paths of the fields that the type has not."""
    if isinstance(value, list):
        return [found for each in value for found in _unknown(each, type_name, path, types)]
    if not isinstance(value, dict) or not type_name:
        return []
    fields = types[type_name]
    strange = [f"{path}.{name}" for name in value if name not in fields]
    known = [name for name in value if name in fields]
    return strange + [
        found for name in known for found in _unknown(value[name], fields[name], f"{path}.{name}", types)
    ]
