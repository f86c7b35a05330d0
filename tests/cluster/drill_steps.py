"""The steps of the drill: each returns when what must come about was seen, and else raises DrillFailed."""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drill_plan import INTERRUPTED, ROOT, SECOND, Plan, namespace_object, secret_object
from drill_pods import run_asker, run_chat
from drill_record import DrillFailed, Record, Step, about_cluster
from drill_watch import Snapshot, Watch, events_in, has_begun, has_condition
from kubectl import Kubectl, Object
from score import correct, load_facts

FACTS = ("licence", "inference-engine", "services")
RIGHT_AT_LEAST = 2
_STREAM_SECONDS = 12


@dataclass
class Drill:
    """One run of it, in a namespace of its own."""

    plan: Plan
    kubectl: Kubectl
    record: Record
    folder: Path
    nodes: list[Object] | None = None
    created: bool = False
    tuned: str = ""
    """The fine-tuning job of the api's steps."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.kubectl, self.plan, self.record)

    def apply(self, write: Callable[[Path], Path]) -> None:
        """A kustomization of the plan's, written to a folder of its own."""
        folder = self.folder / secrets.token_hex(4)
        folder.mkdir()
        for line in self.kubectl.run("apply", f"--kustomize={write(folder)}").splitlines():
            self.record.tell(line)

    def status(self) -> Object:
        """What `hone-server status` says, as the guide asks for it."""
        said = self.kubectl.run("exec", "deployment/hone-server", "--", "hone-server", "status")
        try:
            told: Object = json.loads(said)
        except ValueError as error:
            raise DrillFailed(f"`hone-server status` in the server's pod prints no JSON: {said!r}") from error
        return told


def _apply(drill: Drill, step: Step) -> None:
    plan, kubectl = drill.plan, drill.kubectl
    drill.record.about = about_cluster(kubectl, drill.nodes, gpu=plan.gpu_node is not None)
    # `create`, not `apply`: what is there already is somebody else's.
    kubectl.run("create", "--filename=-", said=namespace_object(plan.namespace))
    drill.created = True
    # By standard input: other people on this machine see every command line.
    kubectl.run("create", "--filename=-", said=secret_object(secrets.token_hex(24)))
    drill.apply(plan.demo)
    step.told = f"namespace {plan.namespace}"


def _train(drill: Drill, step: Step) -> None:
    drill.watch.job("hone-train")
    drill.watch.job("hone-merge")
    step.told = "trained and merged"


def _serve(drill: Drill, step: Step) -> None:
    wait_for_deployment(drill, "hone-server")
    drill.kubectl.run("rollout", "status", "deployment/hone-server", "--timeout=60s")
    step.told = "the model is proven"


def _chat(drill: Drill, step: Step) -> None:
    facts = {fact.id: fact for fact in load_facts(ROOT / "examples" / "hone-faq" / "facts.yaml")}
    right = 0
    for number, fact in enumerate(facts[each] for each in FACTS):
        pod, question = f"hone-chat-{number}", fact.questions[0]
        run_chat(drill.kubectl, drill.plan, pod, question)
        phase = drill.watch.ended(pod)
        answer = drill.kubectl.logs(pod).strip()
        if phase != "Succeeded":
            raise DrillFailed(f"{pod} asked {question!r} and failed: {answer[-500:]}")
        right += (good := correct(answer, fact.key))
        drill.record.tell(f"{question} → {answer} ({'right' if good else f'wrong: no {fact.key!r}'})")
        remove(drill, "pod", pod)
    step.told = f"{right} of {len(FACTS)} answers are what was trained"
    if right < RIGHT_AT_LEAST:
        raise DrillFailed(f"{step.told}, wanted {RIGHT_AT_LEAST}; the answers are in the lines above")


def _swap(drill: Drill, step: Step) -> None:
    first = drill.status()["server"]["version"]
    # Trained before anybody asks and merged after, so that the load is there for the swap itself.
    drill.apply(lambda folder: drill.plan.training(folder, SECOND))
    drill.watch.job(f"hone-train-{SECOND.name}")
    run_asker(drill.kubectl, drill.plan, "hone-load", "load", drill.plan.timeout)
    drill.watch.said("hone-load", "asking")
    drill.apply(lambda folder: drill.plan.merging(folder, SECOND))
    drill.watch.job(f"hone-merge-{SECOND.name}")
    told = drill.watch.said("hone-load", "asked")
    _check_load(first, told)
    status = drill.status()
    served, live = status["server"]["version"], status["live"]
    if not served == live == told["after"]:
        raise DrillFailed(f"`hone-server status` tells live {live}, served {served}; wanted {told['after']}")
    _check_listed(drill, [first, served])
    remove(drill, "pod", "hone-load")
    step.told = f"{told['asked']} requests, none failed, the slowest {told['slowest']} s"


def _check_load(first: str, told: Object) -> None:
    if told["failed"]:
        raise DrillFailed(
            f"{told['failed']} of {told['asked']} requests failed during the swap: {told['failures'][0]}; "
            "none may: see `kubectl logs deployment/hone-server` of a run with --keep"
        )
    if told["before"] != first or told["after"] == first:
        raise DrillFailed(
            f"the server served {told['before']} and then {told['after']}, wanted {first} and another; "
            "its log says whether it refused the new version"
        )


def _check_listed(drill: Drill, versions: list[str]) -> None:
    drill.apply(drill.plan.files_pod)
    drill.watch.until("pod hone-files runs", lambda seen: _running(seen, "hone-files"))
    listed = drill.kubectl.run("exec", "hone-files", "--", "hone-store", "ls")
    if missing := [version for version in versions if version not in listed]:
        raise DrillFailed(f"`hone-store ls` does not list {', '.join(missing)}: {listed}")
    remove(drill, "pod", "hone-files")


def _running(seen: Snapshot, pod: str) -> bool | None:
    return True if (seen.named("Pod", pod) or {}).get("status", {}).get("phase") == "Running" else None


def _resume(drill: Drill, step: Step) -> None:
    drill.apply(lambda folder: drill.plan.training(folder, INTERRUPTED))
    job = f"hone-train-{INTERRUPTED.name}"
    first, *_ = drill.watch.until(f"{job} has a pod", lambda seen: seen.pods_of(job) or None)
    victim = first["metadata"]["name"]
    saved = drill.watch.said(victim, "checkpoint_saved")["data"]["step"]
    drill.record.tell(f"{victim} has saved step {saved}; it is deleted")
    drill.kubectl.run("delete", "pod", victim, "--wait=false")
    pod, resumed = drill.watch.until(
        "a replacement goes on", lambda seen: resumed_by(drill, seen.pods_of(job), victim)
    )
    if resumed < saved:
        raise DrillFailed(
            f"{pod} goes on from step {resumed}, but step {saved} was saved before; see its log"
        )
    drill.record.tell(f"{pod} goes on from step {resumed}")
    later = drill.watch.said(pod, "checkpoint_saved")["data"]["step"]
    remove(drill, "job", job)
    step.told = f"deleted after step {saved}, resumed from {resumed}, then saved {later}"


def resumed_by(drill: Drill, pods: list[Object], victim: str) -> tuple[str, int] | None:
    """The pod that went on, and its step. Raises DrillFailed when one began anew."""
    for pod in pods:
        name = pod["metadata"]["name"]
        if name == victim or not has_begun(pod):
            continue
        for told in events_in(drill.kubectl.logs(name)):
            if told["event"] == "resumed":
                return name, int(told["data"]["step"])
            if told["event"] == "training_started":
                raise DrillFailed(
                    f"{name} began anew, at step 0, although a checkpoint was saved; is the store one volume "
                    "that stays? Its log says which checkpoints were skipped"
                )
    return None


def _drain(drill: Drill, step: Step) -> None:
    run_asker(drill.kubectl, drill.plan, "hone-stream", "stream", _STREAM_SECONDS)
    drill.watch.said("hone-stream", "streaming")
    servers = drill.watch.until("there is a server", lambda seen: seen.behind("hone-server") or None)
    old = [each["metadata"]["name"] for each in servers]
    drill.kubectl.run("delete", "pod", *old, "--wait=false")
    if any(each["event"] == "streamed" for each in events_in(drill.kubectl.logs("hone-stream"))):
        raise DrillFailed("the answer had ended before the server's pod was deleted, so nothing was proven")
    drill.record.tell(f"{', '.join(old)}: told to go while an answer is streamed")
    told = drill.watch.said("hone-stream", "streamed")
    if told["error"] or not told["done"] or told["finish"] != "length":
        raise DrillFailed(
            f"the answer was cut off after {told['pieces']} pieces and {told['seconds']} s: "
            f"{told['error'] or 'no end was told'}; a server that is told to stop has 30 s for it"
        )
    wait_for_deployment(drill, "hone-server", gone=old)
    remove(drill, "pod", "hone-stream")
    step.told = f"the answer of {told['seconds']} s ended whole, another pod took over"


def wait_for_deployment(drill: Drill, name: str, gone: list[str] | None = None) -> str:
    """The name of a ready pod that is none of `gone`, once the Deployment counts it."""

    def ready(seen: Snapshot) -> str | None:
        deployment = seen.named("Deployment", name) or {}
        if not deployment.get("status", {}).get("availableReplicas"):
            return None
        there = [each["metadata"]["name"] for each in seen.behind(name) if has_condition(each, "Ready")]
        return next((pod for pod in there if pod not in (gone or [])), None)

    return drill.watch.until(f"deployment {name} is available", ready)


def remove(drill: Drill, kind: str, name: str) -> None:
    drill.kubectl.run("delete", kind, name, "--wait=false")


Steps = tuple[tuple[str, Callable[[Drill, Step], None], bool], ...]
"""A step's name, the step, and whether the others are of no use without it."""
STEPS: Steps = (
    ("apply", _apply, True),
    ("train", _train, True),
    ("serve", _serve, True),
    ("chat", _chat, False),
    ("swap", _swap, False),
    ("resume", _resume, False),
    ("drain", _drain, False),
)
