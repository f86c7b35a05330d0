"""What the guide's table "When it does not come up" says, the drill says of a cluster that has it."""

from collections.abc import Callable

import pytest
from cluster_faults import Fault, faults
from drill_plan import ROOT, Images
from kubectl import Object
from mock_states import ended, pending, running

GUIDE = ROOT / "docs" / "run-on-kubernetes.md"
POD: Object = {
    "kind": "Pod",
    "metadata": {"name": "pod"},
    "spec": {"containers": [{"name": "one", "image": "hone-server:0.1.0"}]},
}


def _of(status: Object) -> list[Fault]:
    return faults([{**POD, "status": status}])


def _waiting(reason: str) -> Object:
    status = running(POD)
    status["containerStatuses"][0]["state"] = {"waiting": {"reason": reason, "message": "so it is"}}
    return status


CASES: dict[str, tuple[Callable[[], Object], list[str]]] = {
    "Insufficient nvidia.com/gpu": (
        lambda: pending(POD, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        ["pod pod is on no node", "--no-gpu"],
    ),
    "ImagePullBackOff": (lambda: _waiting("ImagePullBackOff"), ["hone-server:0.1.0", "--images"]),
    "CreateContainerConfigError": (
        lambda: _waiting("CreateContainerConfigError"),
        ["so it is", "kubectl describe"],
    ),
    "Permission denied": (
        lambda: ended(POD, 78, "error: [Errno 13] Permission denied: '/store/run-ids'"),
        ["one ended with 78", "10001"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_of_the_guide_is_told_with_what_to_do(case: str) -> None:
    status, said = CASES[case]
    assert case in GUIDE.read_text(encoding="utf-8")
    (fault,) = _of(status())
    assert not [words for words in said if words not in fault.message], fault


def test_a_claim_is_told_before_the_pods_that_wait_for_it() -> None:
    pod = {**POD, "status": pending(POD, "pod has unbound immediate PersistentVolumeClaims")}
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "hone-store"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"},
        "status": {"phase": "Pending"},
    }
    first, second = faults([pod, claim])
    assert "no storage class 'fast', or it does not offer ReadWriteOnce" in first.message
    assert second.about == "pod pod unscheduled"


def test_what_fails_for_good_comes_first_and_its_job_adds_nothing() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    job = {"kind": "Job", "metadata": {"name": "job"}, "status": {"conditions": [failed]}}
    bad = {**POD, "status": ended(POD, 65, "line one\nerror: line 3 is bad\n")}
    waiting = {**POD, "status": pending(POD, "no room")}
    told = faults([waiting, bad, job])
    assert [each.for_good for each in told] == [True, False]
    assert "ended with 65: error: line 3 is bad" in told[0].message
    (alone,) = faults([job])
    assert "job job failed: BackoffLimitExceeded" in alone.message


def test_a_container_that_took_too_much_memory_is_told_also_after_its_restart() -> None:
    status = running(POD)
    status["containerStatuses"][0]["lastState"] = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    (fault,) = _of(status)
    assert "took more memory than its limit" in fault.message


@pytest.mark.parametrize("status", [running(POD, ready=True), pending(POD), ended(POD, 0, ""), {}])
def test_what_is_well_or_on_its_way_is_no_fault(status: Object) -> None:
    assert _of(status) == []


@pytest.mark.parametrize("code", [75, 143])
def test_what_is_tried_again_is_no_fault(code: int) -> None:
    assert _of(ended(POD, code, "stopped; the same command goes on")) == []


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("", "hone-chat:0.1.0"),
        (":7", "hone-chat:7"),
        ("registry.example:5000/hone", "registry.example:5000/hone/hone-chat:0.1.0"),
        ("registry.example:5000/hone/:7", "registry.example:5000/hone/hone-chat:7"),
    ],
)
def test_images_are_a_prefix_and_a_tag(text: str, full: str) -> None:
    assert Images.parse(text).full("hone-chat") == full
