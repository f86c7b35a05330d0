"""The steps of the drill for the api: a client tunes by it, while pods are taken away."""

from functools import cache

from cluster_faults import stage_of
from drill_api_plan import AS_THE_DEMO, MODEL, client_files, epochs_and_batch, write_api
from drill_plan import ROOT, secret_object
from drill_pods import run_client
from drill_record import DrillFailed, Step
from drill_steps import FACTS, RIGHT_AT_LEAST, Drill, Steps, remove, resumed_by, wait_for_deployment
from drill_watch import Snapshot, events_in
from kubectl import Object
from score import Fact, correct, load_facts

_CLIENT, _SECOND, _CANCELS = "hone-tune", "hone-second", "hone-cancel"
_MERGES, _DELETES = "hone-merged", "hone-delete"
_GOES_ON = "goes on from the newest checkpoint"
"""What the api says of a run that it begins again."""
_SERVER, _MODEL = "hone.dev/model-server", "hone.dev/name"
"""The label of all that belongs to a merged model's server, and the annotation with the model's name."""


def _api(drill: Drill, step: Step) -> None:
    # The guide: not beside the other server, which has the same name.
    remove(drill, "deployment", "hone-server")
    drill.apply(lambda folder: write_api(drill.plan, folder))
    drill.watch.job("hone-base")
    for name in ("hone-api", "hone-server"):
        wait_for_deployment(drill, name)
    key = drill.kubectl.run("exec", "deployment/hone-api", "--", "hone-api", "keys", "create").strip()
    if not key or len(key.split()) != 1:
        # It may be a key and more, so it is not told.
        raise DrillFailed("`hone-api keys create` did not print a key alone; see `hone-api keys list` there")
    drill.kubectl.run("create", "--filename=-", said=secret_object(key, "hone-drill-client"))
    drill.kubectl.run("create", "--filename=-", said=client_files())
    step.told = "the api is ready, its server has the base, a client has a key"


def _tune(drill: Drill, step: Step) -> None:
    drill.tuned = _begin(drill, _CLIENT, _facts(), epochs_and_batch(drill.plan))
    trained = drill.watch.heard(_CLIENT, "that its job is running, and a step", _running_and_step)
    step.told = f"uploaded, created, running; step {trained} is among its events"


def _running_and_step(told: list[Object]) -> int | None:
    steps = [int(each["step"]) for each in told if each["event"] == "step"]
    return steps[0] if steps and any(each["event"] == "running" for each in told) else None


def _retry(drill: Drill, step: Step) -> None:
    job = drill.tuned
    victim = _until_it_trains(drill, job)
    saved = drill.watch.said(victim, "checkpoint_saved")["data"]["step"]
    drill.record.tell(f"{victim} has saved step {saved}; it is deleted")
    drill.kubectl.run("delete", "pod", victim, "--wait=false")
    told = drill.watch.heard(_CLIENT, f"that it {_GOES_ON}", _message_of_retry)
    drill.record.tell(f"the api: {told}")
    pod, resumed = drill.watch.until(
        "another run goes on", lambda seen: resumed_by(drill, _pods(seen, job), victim)
    )
    if resumed < saved:
        raise DrillFailed(
            f"{pod} goes on from step {resumed}, but step {saved} was saved before; see its log"
        )
    step.told = f"deleted after step {saved}, begun again, resumed from {resumed}"


def _message_of_retry(told: list[Object]) -> str | None:
    said = (str(each["message"]) for each in told if each["event"] == "message")
    return next((each for each in said if _GOES_ON in each), None)


def _restart(drill: Drill, step: Step) -> None:
    job = drill.tuned
    training = _until_it_trains(drill, job)
    known, there = drill.watch.until("there is an api", lambda seen: _runs_and_api(seen, job))
    old = [each["metadata"]["name"] for each in there]
    drill.kubectl.run("delete", "pod", *old, "--wait=false")
    drill.record.tell(f"{', '.join(old)}: told to go while {training} trains")
    new = wait_for_deployment(drill, "hone-api", gone=old)
    # What it has told until now may be the old one's.
    before = len(events_in(drill.kubectl.logs(_CLIENT)))
    after = drill.watch.heard(
        _CLIENT, "that the job goes on after that", lambda told: _goes_on(told[before:])
    )
    drill.watch.until("nothing was begun twice", lambda seen: _none_new(seen, job, known))
    step.told = f"{training} went on without it; by {new} the client learned: {after}"


def _runs_and_api(seen: Snapshot, job: str) -> tuple[set[str], list[Object]] | None:
    pods = seen.behind("hone-api")
    return (set(_runs(seen, job)), pods) if pods else None


def _goes_on(told: list[Object]) -> str | None:
    for each in told:
        if each["event"] == "step":
            return f"step {each['step']}"
        if each["event"] == "succeeded":
            return "succeeded"
    return None


def _none_new(seen: Snapshot, job: str, known: set[str]) -> bool:
    """Always True; raises DrillFailed when a run was begun that was not there before."""
    if new := [name for name in _runs(seen, job) if name not in known]:
        raise DrillFailed(
            f"{', '.join(new)} was begun beside {', '.join(known)}; an api that comes anew must find "
            "what runs: see `kubectl logs deployment/hone-api` of a run with --keep"
        )
    return True


def _answer(drill: Drill, step: Step) -> None:
    step.told = _right_answers(drill, _CLIENT)


def _right_answers(drill: Drill, client: str) -> str:
    """How many there are; raises DrillFailed where they are too few."""
    told = drill.watch.said(client, "answered")
    right = 0
    for fact, answer in zip(_facts(), told["answers"], strict=True):
        right += (good := correct(answer, fact.key))
        said = "right" if good else f"wrong: no {fact.key!r}"
        drill.record.tell(f"{fact.questions[0]} → {answer} ({said})")
    remove(drill, "pod", client)
    counted = f"{told['model']}: {right} of {len(FACTS)} answers are what was trained"
    if right < RIGHT_AT_LEAST:
        raise DrillFailed(f"{counted}, wanted {RIGHT_AT_LEAST}; the answers are in the lines above")
    return counted


def _cancel(drill: Drill, step: Step) -> None:
    job = _begin(drill, _SECOND, [], epochs_and_batch(drill.plan))
    _until_it_trains(drill, job)
    run_client(drill.kubectl, drill.plan, _CANCELS, "cancel", [job])
    drill.watch.said(_SECOND, "cancelled")
    drill.watch.until(f"no Job of {job} trains", lambda seen: None if _runs(seen, job) else True)
    for pod in (_SECOND, _CANCELS):
        remove(drill, "pod", pod)
    step.told = "cancelled while it trained, and its Job is gone"


def _merged(drill: Drill, step: Step) -> None:
    job = _begin(drill, _MERGES, _facts(), AS_THE_DEMO, deploy="merged")
    model = drill.watch.said(_MERGES, "succeeded")["model"]
    server = drill.watch.until(f"the server of {model} is available", lambda seen: _server_of(seen, job))
    counted = _right_answers(drill, _MERGES)
    run_client(drill.kubectl, drill.plan, _DELETES, "delete", [model])
    drill.watch.said(_DELETES, "deleted")
    drill.watch.until(
        f"deployment and service {server} are gone (the api deletes them, and its log says so)",
        lambda seen: _is_gone(drill, seen, server),
    )
    remove(drill, "pod", _DELETES)
    step.told = f"{counted}; its server {server} was made, and is gone with it"


def _server_of(seen: Snapshot, job: str) -> str | None:
    """The Deployment's name, once a pod of it is ready. Raises DrillFailed when there is no Deployment."""
    for each in seen.objects:
        metadata = each["metadata"]
        # Without a suffix, a model is published under its job's id.
        if each["kind"] == "Deployment" and metadata.get("annotations", {}).get(_MODEL) == job:
            return metadata["name"] if each.get("status", {}).get("availableReplicas") else None
    raise DrillFailed(
        f"{job} has succeeded, and no deployment has the annotation {_MODEL}: {job}; the api makes it of the "
        "PodTemplate hone-model-server: see `kubectl logs deployment/hone-api` of a run with --keep"
    )


def _is_gone(drill: Drill, seen: Snapshot, server: str) -> bool | None:
    there = seen.named("Deployment", server) or seen.pods(_SERVER, server)
    return None if there or drill.kubectl.is_there("service", server) else True


@cache
def _facts() -> list[Fact]:
    """Those that are asked for."""
    facts = {fact.id: fact for fact in load_facts(ROOT / "examples" / "hone-faq" / "facts.yaml")}
    return [facts[each] for each in FACTS]


def _begin(drill: Drill, pod: str, asked: list[Fact], pace: tuple[int, int], deploy: str = "adapter") -> str:
    """A client that tunes; the id of its job. `pace`: epochs, and examples in a batch."""
    questions = [fact.questions[0] for fact in asked]
    words = [MODEL, deploy, "/drill/train.jsonl", *map(str, pace), *questions]
    run_client(drill.kubectl, drill.plan, pod, "tune", words)
    return str(drill.watch.said(pod, "created")["job"])


def _until_it_trains(drill: Drill, job: str) -> str:
    """The name of the pod that does."""

    def training(seen: Snapshot) -> str | None:
        pods = [each for each in _pods(seen, job) if each["status"].get("phase") == "Running"]
        return pods[-1]["metadata"]["name"] if pods else None

    return drill.watch.until(f"{job} trains", training)


def _runs(seen: Snapshot, job: str) -> list[str]:
    """The Jobs that train it, by name, the newest last. Those that have ended stay until it has."""
    stages = {each["metadata"]["name"]: stage_of(each) for each in seen.objects if each["kind"] == "Job"}
    mine = {
        name: int(stage.removesuffix("-train").rpartition("/")[2])
        for name, stage in stages.items()
        if stage.startswith(f"{job}/") and stage.endswith("-train")
    }
    return sorted(mine, key=lambda name: mine[name])


def _pods(seen: Snapshot, job: str) -> list[Object]:
    return [pod for name in _runs(seen, job) for pod in seen.pods_of(name)]


API_STEPS: Steps = (
    ("api", _api, True),
    ("tune", _tune, True),
    ("retry", _retry, True),
    ("restart", _restart, True),
    ("answer", _answer, False),
    ("cancel", _cancel, False),
    ("merged", _merged, False),
)
