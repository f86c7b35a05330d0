"""The drill, with the real kubectl, against a mock of Kubernetes: what it does, and what makes it fail.

The mock's pods are a fiction, so nothing here says that Hone runs on a cluster: test_drill.py does.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from drill import run_drill
from drill_api import API_STEPS
from drill_plan import Images, Plan, namespace_object
from drill_record import Record, Step
from drill_steps import STEPS, Drill, Steps
from kubectl import Kubectl, Object
from mock_api import Api, serving
from mock_life import Life
from mock_tuning import KEY
from mock_words import Troubles

NAMESPACE = "hone-drill-test"
NODE: Object = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "secret-node-name", "labels": {"kubernetes.io/hostname": "one"}},
    "status": {
        "allocatable": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"},
        "nodeInfo": {
            "operatingSystem": "linux",
            "architecture": "amd64",
            "osImage": "Debian",
            "kubeletVersion": "v1.32.0",
            "containerRuntimeVersion": "containerd://2.0",
        },
    },
}


@dataclass
class Mock:
    """A cluster, and kubectl for it; every command line is noted."""

    api: Api
    life: Life
    kubectl: Kubectl
    lines: Path

    def drill(self, steps: Steps = STEPS, **changes: Any) -> Record:
        plan = Plan(NAMESPACE, Images.parse(""), timeout=60, patience=0, poll=0)
        return run_drill(replace(plan, **changes), self.kubectl, self.kubectl.items("nodes"), steps)

    def spaces(self) -> list[str]:
        return [space["metadata"]["name"] for space in self.api.all("v1/spaces")]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Mock]]:
    """Makes the cluster, with what goes wrong in it."""
    life = Life()
    api = Api(life)
    api.put("v1/nodes", NODE)
    with serving(api) as url:

        def make(**troubles: Any) -> Mock:
            life.troubles = Troubles(**troubles)
            return Mock(api, life, _kubectl(url, tmp_path), tmp_path / "lines")

        yield make


@pytest.mark.chain
def test_the_whole_drill_passes_and_leaves_nothing(
    cluster: Callable[..., Mock], capsys: pytest.CaptureFixture[str]
) -> None:
    mock = cluster()
    record = mock.drill()
    told = capsys.readouterr().out
    assert record.passed, record.summary()
    assert mock.spaces() == []
    key = _key(mock)
    assert len(key) == 48
    assert key not in told + mock.lines.read_text()
    assert "resumed from 10" in record.summary()
    assert "secret-node-name" not in record.summary()


@pytest.mark.chain
def test_with_a_gpu_the_trainer_has_it_and_all_pods_are_where_it_is(cluster: Callable[..., Mock]) -> None:
    mock = cluster()
    plan = {
        "gpu_node": "one",
        "images": Images.parse("registry.example:5000/hone:9"),
        "storage_class": "fast",
    }
    assert mock.drill(tuple(step for step in STEPS if step[2] or step[0] == "swap"), **plan).passed
    (claim,) = _made(mock, "v1/persistentvolumeclaims", "hone-store")
    assert claim["spec"]["storageClassName"] == "fast"
    for job in _made(mock, "batch/v1/jobs", "hone-train"):
        (trainer,) = job["spec"]["template"]["spec"]["containers"]
        asked = trainer["resources"]
        assert asked["requests"]["nvidia.com/gpu"] == asked["limits"]["nvidia.com/gpu"] == "1"
        assert trainer["image"] == "registry.example:5000/hone/hone-trainer:9-gpu"
    for owner in [*_made(mock, "batch/v1/jobs", ""), *_made(mock, "apps/v1/deployments", "")]:
        pod = owner["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {"kubernetes.io/hostname": "one"}
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


# What kubectl has to do for the others, it does for these as well; test_api_steps.py has them all.
TUNING = (STEPS[0], *(step for step in API_STEPS if step[0] in ("api", "tune", "cancel", "merged")))


@pytest.mark.chain
def test_the_api_is_drilled_where_the_gpu_is(
    cluster: Callable[..., Mock], capsys: pytest.CaptureFixture[str]
) -> None:
    mock = cluster()
    plan = {"gpu_node": "one", "images": Images.parse("registry.example/hone:9"), "storage_class": "fast"}
    record = mock.drill(TUNING, **plan)
    assert record.passed, record.summary()
    assert mock.spaces() == []
    assert KEY not in capsys.readouterr().out + mock.lines.read_text()
    claims = _made(mock, "v1/persistentvolumeclaims", "hone-")
    assert [claim["spec"]["storageClassName"] for claim in claims] == ["fast"] * 2
    for template in _made(mock, "v1/podtemplates", ""):
        pod, trains = template["template"]["spec"], template["metadata"]["name"] == "hone-stage-train"
        (stage,) = pod["containers"]
        assert ("nvidia.com/gpu" in stage["resources"]["limits"]) is trains
        assert stage["image"].endswith(":9-gpu" if "trainer" in stage["image"] else ":9")
        assert pod["nodeSelector"] == {"kubernetes.io/hostname": "one"}
    for pod in _made(mock, "v1/pods", ""):
        assert pod["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu", pod["metadata"]["name"]


# What is wrong; which step fails; what it says: what happened, the value, what to do next.
FAILURES: dict[str, tuple[Object, str, list[str]]] = {
    "image": (
        {"missing_image": "hone-server"},
        "train",
        ["hone-server:0.1.0", "ImagePullBackOff", "--images"],
    ),
    "claim": ({"claim_pends": True}, "train", ["claim hone-store stays Pending", "--storage-class"]),
    "bad data": (
        {"exit_codes": {"hone-train": (65, "error: train.jsonl:3 has no messages")}},
        "train",
        ["trainer ended with 65", "train.jsonl:3 has no messages", "docs/architecture.md"],
    ),
    "answers": ({"knows_nothing": True}, "chat", ["0 of 3 answers"]),
    "failed request": ({"failed_requests": 1}, "swap", ["1 of 41 requests failed", "HTTPError: 503"]),
    "refused": ({"refuses_versions": True}, "swap", ["wanted version-1 and another"]),
    "began anew": ({"forgets_checkpoints": True}, "resume", ["began anew, at step 0"]),
    "cut off": (
        {"stream_ends": {"done": False, "finish": None, "error": "IncompleteRead"}},
        "drain",
        ["cut off after 160 pieces", "IncompleteRead"],
    ),
    "error in the answer": (
        {"stream_ends": {"done": True, "finish": "length", "error": "the engine is gone"}},
        "drain",
        ["the engine is gone"],
    ),
}
# The others start so many commands that they take their time.
QUICK = ("claim", "bad data")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.chain] * (case not in QUICK)) for case in FAILURES]
)
def test_what_goes_wrong_fails_its_step_and_is_cleaned_up(case: str, cluster: Callable[..., Mock]) -> None:
    troubles, failing, said = FAILURES[case]
    mock = cluster(**troubles)
    record = mock.drill(tuple(step for step in STEPS if step[2] or step[0] == failing))
    (failure,) = record.failures()
    assert failure.startswith(f"{failing}: ")
    assert not [words for words in said if words not in failure], failure
    assert mock.spaces() == []


@pytest.mark.chain
def test_a_step_that_failed_is_no_fault_of_the_next(cluster: Callable[..., Mock]) -> None:
    mock = cluster(exit_codes={"hone-train-second": (65, "error: no room")})
    record = mock.drill(tuple(step for step in STEPS if step[2] or step[0] in ("swap", "drain")))
    (failure,) = record.failures()
    assert failure.startswith("swap: ")


@pytest.mark.chain
def test_a_gpu_that_is_taken_is_told(cluster: Callable[..., Mock]) -> None:
    (failure,) = cluster(gpus_taken=True).drill(gpu_node="one").failures()
    assert "Insufficient nvidia.com/gpu" in failure
    assert "--no-gpu" in failure


@pytest.mark.chain
def test_a_namespace_that_stays_fails_the_drill(cluster: Callable[..., Mock]) -> None:
    mock = cluster(namespace_stays=True, claim_pends=True)
    failures = mock.drill(timeout=1).failures()
    assert failures[-1].startswith(f"delete: namespace {NAMESPACE} is still there, Terminating: pods. has 1")


def test_a_namespace_that_is_there_is_not_touched(cluster: Callable[..., Mock]) -> None:
    mock = cluster()
    mock.kubectl.run("create", "--filename=-", said=namespace_object(NAMESPACE))
    record = mock.drill()
    (failure,) = record.failures()
    assert "already exists" in failure
    assert mock.spaces() == [NAMESPACE]
    assert mock.api.all("v1/secrets") == []
    assert [step.outcome for step in record.steps] == ["FAILED"] + ["not run"] * 7


def test_whoever_interrupts_it_finds_nothing_left(cluster: Callable[..., Mock]) -> None:
    def interrupt(drill: Drill, _: Step) -> None:
        assert drill.created
        raise KeyboardInterrupt

    mock = cluster()
    with pytest.raises(KeyboardInterrupt):
        mock.drill((STEPS[0], ("interrupted", interrupt, True)))
    assert mock.spaces() == []


def test_what_is_kept_is_told(cluster: Callable[..., Mock], capsys: pytest.CaptureFixture[str]) -> None:
    mock = cluster(claim_pends=True)
    mock.drill(keep=True)
    assert mock.spaces() == [NAMESPACE]
    assert f"kubectl delete namespace {NAMESPACE}" in capsys.readouterr().out


@pytest.mark.chain
def test_what_never_comes_is_given_up(cluster: Callable[..., Mock]) -> None:
    mock = cluster(claim_pends=True)
    (failure,) = mock.drill(timeout=1, patience=100).failures()
    assert "not so within 1 s: job hone-train is complete" in failure
    assert "persistentvolumeclaim hone-store: Pending" in failure


def _kubectl(url: str, folder: Path) -> Kubectl:
    """The real one, by way of a script that notes what it is told."""
    real, script = shutil.which("kubectl"), folder / "kubectl"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder}/lines\nexec {real} "$@"\n')
    script.chmod(0o755)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "mock", "cluster": {"server": url}}],
        "contexts": [{"name": "mock", "context": {"cluster": "mock", "user": "mock"}}],
        "users": [{"name": "mock", "user": {}}],
        "current-context": "mock",
    }
    (folder / "config").write_text(yaml.safe_dump(config))
    mine = {"KUBECONFIG": str(folder / "config"), "KUBECACHEDIR": str(folder / "cache")}
    return Kubectl(NAMESPACE, str(script), {**os.environ, **mine})


def _made(mock: Mock, resource: str, start: str) -> list[Object]:
    """Those that there were."""
    found = [each.last.raw for key, each in mock.api.objects.items() if key[0] == resource]
    return [each for each in found if each["metadata"]["name"].startswith(start)]


def _key(mock: Mock) -> str:
    (secret,) = _made(mock, "v1/secrets", "hone-api-key")
    key: str = secret["stringData"]["HONE_API_KEY"]
    return key
