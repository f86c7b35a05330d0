"""Hone on a live cluster, from nothing to nothing: runs the steps in their order, and leaves nothing behind.

Only kubectl is used, with the files of k8s/, as somebody would who follows docs/run-on-kubernetes.md.
"""

import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from drill_plan import INTERRUPTED, SECOND, Plan
from drill_record import DrillFailed, Record, Step
from drill_steps import STEPS, Drill, Steps
from kubectl import Kubectl, KubectlFailed, Object

# A namespace's controllers, and the pods' grace of up to 300 s.
_GONE_WITHIN = 600


def run_drill(
    plan: Plan, kubectl: Kubectl, nodes: list[Object] | None = None, steps: Steps = STEPS
) -> Record:
    """Every step that can be run; what was created is deleted at the end, whatever happened."""
    record = Record([Step(name) for name, *_ in steps] + [Step("delete")])
    with TemporaryDirectory() as folder:
        drill = Drill(plan, kubectl, record, Path(folder), nodes)
        try:
            for name, step, ends in steps:
                with record.step(name) as noted:
                    step(drill, noted)
                if noted.outcome != "passed":
                    if ends:
                        # The others would fail of the same.
                        break
                    _stop(drill)
        finally:
            _clean_up(drill)
    return record


def _stop(drill: Drill) -> None:
    """Remove what a failed step has left: it would slow down the next ones."""
    # Not all of it is gone at once.
    drill.watch.forgive()
    jobs = [f"job/hone-{name}-{run.name}" for name in ("train", "merge") for run in (SECOND, INTERRUPTED)]
    with suppress(KubectlFailed):
        drill.kubectl.run("delete", *jobs, "--ignore-not-found", "--wait=false")
        # The label that `kubectl run` gives.
        drill.kubectl.run("delete", "pods", "--selector=run", "--wait=false")


def _clean_up(drill: Drill) -> None:
    plan, record = drill.plan, drill.record
    if not drill.created:
        return
    if plan.keep:
        record.tell(f"kept; remove it with: kubectl delete namespace {plan.namespace}")
        record.steps[-1].outcome = "kept"
        return
    with record.step("delete") as step:
        drill.kubectl.run("delete", "namespace", plan.namespace, "--wait=false")
        _wait_until_gone(drill)
        step.told = "the namespace is gone"


def _wait_until_gone(drill: Drill) -> None:
    deadline = time.monotonic() + min(_GONE_WITHIN, drill.plan.timeout)
    while drill.kubectl.is_there("namespace", drill.plan.namespace):
        if time.monotonic() > deadline:
            raise DrillFailed(_why_it_stays(drill))
        time.sleep(drill.plan.poll)


def _why_it_stays(drill: Drill) -> str:
    name = drill.plan.namespace
    try:
        status = drill.kubectl.json("get", "namespace", name).get("status", {})
    except KubectlFailed as error:
        return f"namespace {name} is still there: {error}"
    why = "; ".join(
        each.get("message", "") for each in status.get("conditions", []) if each["status"] == "True"
    )
    return (
        f"namespace {name} is still there, {status.get('phase')}: {why or 'no reason told'}; "
        f"see what is in it: kubectl --namespace {name} get all,pvc,pods"
    )
