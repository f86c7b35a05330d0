"""What every pod of k8s/ must say, and must not."""

import re
import tomllib

import pytest
from rendered import API, DEMO, ROOT, SOURCES, Container, containers, objects, of_kind, pods

SERVICES = {
    "hone-trainer": "trainer",
    "hone-merger": "merger",
    "hone-server": "server",
    "hone-chat": "chat-cli",
    "hone-api": "api",
}
USER = 10001
GPU = "nvidia.com/gpu"
# What the Pod Security Standard `restricted` allows.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
# Labels that a Job gives its pods (Kubernetes 1.27).
OF_THE_CLUSTER = {"batch.kubernetes.io/job-name"}
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")


@pytest.mark.parametrize("source", SOURCES)
def test_every_container_says_what_it_takes(source: str) -> None:
    for container in containers(source):
        resources = container.spec["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory"}, container.where
        assert "memory" in resources["limits"], container.where


@pytest.mark.parametrize("source", SOURCES)
def test_every_pod_keeps_to_the_restricted_standard(source: str) -> None:
    for where, _, pod in pods(source):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert (security["runAsUser"], security["runAsGroup"]) == (USER, USER), where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), where
        for volume in pod.get("volumes", []):
            assert volume.keys() - {"name"} <= VOLUMES, f"{where}, volume {volume['name']}"


@pytest.mark.parametrize("source", SOURCES)
def test_every_container_keeps_to_the_restricted_standard(source: str) -> None:
    for container in containers(source):
        assert container.spec["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container.where
        assert all("hostPort" not in port for port in container.spec.get("ports", [])), container.where


@pytest.mark.parametrize("source", SOURCES)
def test_no_pod_but_the_apis_gets_a_token_and_none_other_services_addresses(source: str) -> None:
    for where, _, pod in pods(source):
        asks = "Deployment hone-api" in where
        assert pod["automountServiceAccountToken"] is asks, where
        assert ("serviceAccountName" in pod) is asks, where
        # Kubernetes would set HONE_SERVER_PORT and its like.
        assert pod["enableServiceLinks"] is False, where


@pytest.mark.parametrize("source", SOURCES)
def test_secrets_come_by_reference_only(source: str) -> None:
    assert not of_kind(source, "Secret")
    for container in containers(source):
        for variable in container.spec.get("env", []):
            if SECRET.search(variable["name"]):
                assert variable.keys() == {"name", "valueFrom"}, container.where
                assert variable["valueFrom"].keys() == {"secretKeyRef"}, container.where


@pytest.mark.parametrize("source", SOURCES)
def test_every_image_is_ours_and_of_this_version(source: str) -> None:
    for container in containers(source):
        assert container.image in SERVICES, container.where
        project = ROOT / "services" / SERVICES[container.image] / "pyproject.toml"
        version = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
        assert container.spec["image"].rpartition(":")[2] in (version, f"{version}-gpu"), container.where
        assert "imagePullPolicy" not in container.spec, container.where


@pytest.mark.parametrize("source", SOURCES)
def test_every_mount_has_a_volume_and_every_volume_a_mount(source: str) -> None:
    for where, _, pod in pods(source):
        defined = {volume["name"] for volume in pod.get("volumes", [])}
        every = [*pod.get("initContainers", []), *pod["containers"]]
        mounted = {mount["name"] for each in every for mount in each.get("volumeMounts", [])}
        assert mounted == defined, where


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_written_to_has_a_limit(source: str) -> None:
    for where, _, pod in pods(source):
        for volume in pod.get("volumes", []):
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], f"{where}, volume {volume['name']}"


@pytest.mark.parametrize("source", SOURCES)
def test_our_commands_have_the_store_and_room_beside_a_read_only_root(source: str) -> None:
    for container in _commands(source):
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in container.pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert {"name": "HONE_STORE", "value": "/store"} in container.spec["env"], container.where
        assert claims[container.mounts["/store"]] == "hone-store", container.where
        assert {"/tmp", "/home/hone"} <= container.mounts.keys(), container.where


@pytest.mark.parametrize("source", SOURCES)
def test_what_runs_torch_in_many_processes_has_shared_memory(source: str) -> None:
    for container in _commands(source):
        if container.image in ("hone-merger", "hone-api"):
            continue
        volumes = {volume["name"]: volume for volume in container.pod["volumes"]}
        shared = volumes[container.mounts["/dev/shm"]]
        assert shared["emptyDir"]["medium"] == "Memory", container.where


@pytest.mark.parametrize("source", SOURCES)
def test_a_gpu_is_asked_for_and_limited_alike_and_its_taint_tolerated(source: str) -> None:
    tolerated = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
    for container in containers(source):
        resources = container.spec["resources"]
        asked = resources["requests"].get(GPU)
        assert asked == resources["limits"].get(GPU), container.where
        if asked:
            assert tolerated in container.pod["tolerations"], container.where
            assert container.spec["image"].endswith("-gpu"), container.where


@pytest.mark.parametrize(
    ("source", "images"),
    [
        (DEMO, set()),
        ("k8s/overlays/gpu", {"hone-server"}),
        ("k8s/overlays/gpu/training", {"hone-trainer"}),
        ("k8s/train-job.yaml", {"hone-trainer"}),
        (API, {"hone-server", "hone-trainer"}),
    ],
)
def test_who_gets_a_gpu(source: str, images: set[str]) -> None:
    asking = {each.image for each in containers(source) if GPU in each.spec["resources"]["limits"]}
    assert asking == images


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_referred_to_is_there(source: str) -> None:
    """Labels and variables that arguments are made of, and generated configuration."""
    configurations = {each["metadata"]["name"] for each in of_kind(source, "ConfigMap")}
    for where, metadata, pod in pods(source):
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configurations, where
        for label in re.findall(r"metadata\.labels\['([^']+)'\]", str(pod)):
            assert label in OF_THE_CLUSTER or metadata["labels"][label], where
    for container in containers(source):
        variables = {variable["name"] for variable in container.spec.get("env", [])}
        words = [*container.spec.get("command", []), *container.spec.get("args", [])]
        used = set(re.findall(r"\$\((\w+)\)", " ".join(words)))
        assert used <= variables, container.where


def test_the_pods_of_the_demo_share_one_node_as_its_volume_does() -> None:
    (claim,) = of_kind(DEMO, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    for where, metadata, pod in pods(DEMO):
        (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname", where
        # So that the first one may be scheduled at all, and the others follow it.
        (expression,) = term["labelSelector"]["matchExpressions"]
        assert metadata["labels"][expression["key"]] in expression["values"], where


def test_the_gpu_overlays_store_is_shared_and_of_a_named_class() -> None:
    (claim,) = of_kind("k8s/overlays/gpu", "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"]
    assert [each["kind"] for each in objects("k8s/overlays/gpu/store")] == ["PersistentVolumeClaim"]


def _commands(source: str) -> list[Container]:
    """Containers that run what their image is for. A check needs neither store nor torch."""
    ours = [each for each in containers(source) if "command" not in each.spec]
    ours = [each for each in ours if "hone-stage-check" not in each.where]
    return [each for each in ours if each.image != "hone-chat"]
