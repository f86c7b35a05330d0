"""How what k8s/ starts comes up, is replaced and ends."""

import re

import pytest
from rendered import SOURCES, Container, Object, containers, of_kind, overlay_of, pods

from hone_contract.errors import BadConfiguration, BadInput
from hone_server.command import SHUTDOWN_SECONDS

JOBS = [source for source in SOURCES if re.search("/training|demo|train-job|multinode", overlay_of(source))]
GPU_JOBS = [source for source in JOBS if "demo" not in source]
ENGINE_ENDS = 15
"""Seconds that the engine's processes may need after the last answer."""


@pytest.mark.parametrize("source", SOURCES)
def test_what_serves_is_probed_and_nothing_else(source: str) -> None:
    for container in containers(source):
        probes = {
            name: each["httpGet"]["path"] for name, each in container.spec.items() if name.endswith("Probe")
        }
        expected = {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
        assert probes == (expected if container.serves else {}), container.where


@pytest.mark.parametrize("source", SOURCES)
def test_a_large_model_has_time_to_load_and_a_rollout_waits_for_it(source: str) -> None:
    for deployment in of_kind(source, "Deployment"):
        spec = deployment["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        budget = _seconds(container["startupProbe"])
        assert budget >= 1800 or container["name"] == "api"
        assert spec["progressDeadlineSeconds"] > budget


@pytest.mark.parametrize("source", SOURCES)
def test_a_busy_server_leaves_the_service_long_before_it_is_killed(source: str) -> None:
    for container in _serving(source):
        liveness, readiness = container.spec["livenessProbe"], container.spec["readinessProbe"]
        assert _seconds(liveness) >= 4 * _seconds(readiness), container.where


@pytest.mark.parametrize("source", SOURCES)
def test_a_rollout_never_needs_one_more_gpu(source: str) -> None:
    for deployment in of_kind(source, "Deployment"):
        strategy = deployment["spec"]["strategy"]
        if deployment["metadata"]["name"] == "hone-api":
            # Two would work on the same data.
            assert strategy == {"type": "Recreate"} and deployment["spec"]["replicas"] == 1
            continue
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


@pytest.mark.parametrize("source", SOURCES)
def test_a_servers_grace_is_longer_than_all_that_has_to_happen_in_it(source: str) -> None:
    for container in _serving(source):
        program, seconds = container.spec["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "sleep", container.where
        needed = int(seconds) + SHUTDOWN_SECONDS + ENGINE_ENDS
        assert container.pod["terminationGracePeriodSeconds"] >= needed, container.where


@pytest.mark.parametrize("source", SOURCES)
def test_a_service_leads_to_the_servers_port(source: str) -> None:
    deployments = of_kind(source, "Deployment")
    # One without an address of its own gives names to pods, and leads nowhere.
    services = [each for each in of_kind(source, "Service") if each["spec"].get("clusterIP") != "None"]
    for service, deployment in zip(services, deployments, strict=True):
        template = deployment["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        (container,) = template["spec"]["containers"]
        (port,) = service["spec"]["ports"]
        assert port["targetPort"] in [each["name"] for each in container["ports"]]
        assert port["port"] == container["ports"][0]["containerPort"] == int(_value(container, "--port"))
        assert _value(container, "--host") == "0.0.0.0"


@pytest.mark.parametrize("source", JOBS)
def test_every_job_ends(source: str) -> None:
    assert of_kind(source, "Job")
    for job in of_kind(source, "Job"):
        spec = job["spec"]
        # When a pod of several fails, all of them do.
        assert 1 <= spec["backoffLimit"] <= 6 * spec.get("parallelism", 1)
        assert spec["activeDeadlineSeconds"] <= 2 * 86400
        assert spec["ttlSecondsAfterFinished"] >= 3600
        assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("source", JOBS)
def test_a_job_that_is_told_to_stop_does_so(source: str) -> None:
    """Python has no handler for SIGTERM, and process 1 ignores what it does not handle."""
    for where, _, pod in pods(source):
        assert pod.get("shareProcessNamespace") is True or "Deployment" in where, where


@pytest.mark.parametrize("source", JOBS)
def test_training_that_is_told_to_stop_has_time_for_a_checkpoint(source: str) -> None:
    training = [each for each in containers(source) if each.image == "hone-trainer"]
    assert training
    for container in training:
        assert container.pod["terminationGracePeriodSeconds"] >= 120, container.where


@pytest.mark.parametrize("source", GPU_JOBS)
def test_no_two_pods_of_a_run_write_at_once(source: str) -> None:
    for job in of_kind(source, "Job"):
        assert job["spec"]["podReplacementPolicy"] == "Failed"


@pytest.mark.parametrize("source", GPU_JOBS)
def test_bad_input_and_bad_configuration_cost_no_second_gpu_hour(source: str) -> None:
    for job in of_kind(source, "Job"):
        fail, ignore = job["spec"]["podFailurePolicy"]["rules"]
        assert fail["action"] == "FailJob"
        assert set(fail["onExitCodes"]["values"]) == {BadInput.exit_code, BadConfiguration.exit_code}
        assert ignore["action"] == "Ignore"


def _serving(source: str) -> list[Container]:
    return [container for container in containers(source) if container.serves]


def _seconds(probe: Object) -> int:
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


def _value(container: Object, option: str) -> str:
    words: list[str] = container["args"]
    return words[words.index(option) + 1]
