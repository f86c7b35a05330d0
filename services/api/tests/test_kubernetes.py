"""The launcher of a cluster, against a mock of its API: what it asks, and what it makes of the answers."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_cluster import (
    BASE,
    JOBS,
    PODS,
    SERVICES,
    TEMPLATES,
    Mock,
    connected,
    disrupted,
    ended,
    mock_cluster,
    pulling,
    rights_in,
    running,
    unschedulable,
    write_kubeconfig,
)
from api_stages import until
from kubernetes.client import Configuration
from kubernetes.config import incluster_config

from hone_api.launcher import cluster
from hone_api.launcher.cluster import Cluster, NoAnswer, Refused, connect
from hone_api.launcher.kubernetes import KubernetesLauncher
from hone_api.launcher.manifest import job_name, make_job
from hone_api.launcher.stages import Command, State
from hone_api.serving.found import FoundServers
from hone_api.settings import Settings, Upstream
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter

NAME = "ftjob-abc/1-train"
JOB = "ftjob-abc-1-train"
QUEUE = "kueue.x-k8s.io/queue-name"
RIGHTS = rights_in(BASE / "rights.yaml")


@dataclass
class Here:
    """An api's launcher, which a test begins anew as often as it likes."""

    mock: Mock
    url: str
    data: Path
    launchers: list[KubernetesLauncher] = field(default_factory=list)

    def restart(self, again_seconds: float = 0.0) -> KubernetesLauncher:
        self.close()
        reporter = Reporter("api", self.data / "log.jsonl")
        made = KubernetesLauncher(connected(self.url), self.data, reporter, again_seconds=again_seconds)
        self.launchers.append(made)
        made.start()
        return made

    def close(self) -> None:
        while self.launchers:
            self.launchers.pop().close()

    @property
    def launcher(self) -> KubernetesLauncher:
        return self.launchers[-1] if self.launchers else self.restart()

    def command(self) -> Command:
        folder = self.data / "jobs" / "ftjob-abc"
        words = ["hone-trainer", "train", str(folder / "run.yaml"), "--text", "$(HOME)"]
        said = {"HONE_STORE": "/elsewhere", "WANDB_NAME": "$(HF_TOKEN)"}
        return Command(words, said, reads=[folder], writes=[folder / "out"])

    def begin(self, name: str = NAME) -> None:
        self.launcher.begin(name, self.command())
        self.shows(lambda: self.launcher._jobs.get(job_name(name)) is not None)

    def begun_pod(self) -> dict[str, object]:
        """Of a stage that has begun."""
        self.begin()
        pod = self.mock.begin_pod(JOB)
        self.mock.set_pod(pod, running(pod))
        self.shows(lambda: self.launcher._pods.labelled("hone.dev/stage", JOB))
        return pod

    def shows(self, so: Callable[[], object]) -> None:
        until(so)

    def ends(self, name: str = NAME) -> State:
        def state() -> State | None:
            found = self.launcher.state(name)
            return found if found.state == "ended" else None

        return until(state)

    def note(self, name: str = NAME) -> str:
        return until(lambda: self.launcher.state(name).note)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with mock_cluster() as (mock, url):
        made = Here(mock, url, tmp_path.resolve())
        yield made
        made.close()
        # Kubernetes would refuse whatever else.
        assert set(mock.asked) <= RIGHTS


# -- beginning ---------------------------------------------------------------------------------------


def test_a_job_is_made_of_its_template_and_sees_only_its_own_files(here: Here) -> None:
    assert here.launcher.state(NAME) == State("absent")
    here.begin()
    job = here.mock.job(JOB)
    assert job["metadata"]["annotations"] == {"hone.dev/stage-name": NAME}
    template = yaml.safe_load((BASE / "train.yaml").read_text())
    ours = {"app.kubernetes.io/managed-by": "hone-api", "hone.dev/stage": JOB}
    assert job["metadata"]["labels"] == template["metadata"]["labels"] | ours
    assert job["spec"]["template"]["metadata"]["labels"] == template["template"]["metadata"]["labels"] | ours
    assert (job["spec"]["backoffLimit"], job["spec"]["podReplacementPolicy"]) == (0, "Failed")
    assert "suspend" not in job["spec"]
    pod, plain = job["spec"]["template"]["spec"], template["template"]["spec"]
    (stage,) = pod.pop("containers")
    (was,) = plain.pop("containers")
    # All the rest is the operator's, and stays.
    assert pod == plain
    assert stage["command"] == [*here.command().arguments[:-1], "$$(HOME)"] and "args" not in stage
    environment = {each["name"]: each.get("value") for each in stage["env"]}
    # What a client wrote is no name of a Secret's value.
    secrets = {"HF_TOKEN": None, "WANDB_API_KEY": None}
    assert environment == {"HONE_STORE": "/elsewhere", "WANDB_NAME": "$$(HF_TOKEN)", **secrets}
    folder = here.data / "jobs" / "ftjob-abc"
    mounts = [each for each in stage["volumeMounts"] if each["name"] == "data"]
    reads = {"mountPath": str(folder), "subPath": "jobs/ftjob-abc", "readOnly": True}
    writes = {"mountPath": str(folder / "out"), "subPath": "jobs/ftjob-abc/out", "readOnly": False}
    assert mounts == [{"name": "data", **reads}, {"name": "data", **writes}]
    assert [each for each in stage["volumeMounts"] if each["name"] != "data"] == [
        each for each in was["volumeMounts"] if each["name"] != "data"
    ]
    assert (folder / "out").is_dir()


def test_a_template_of_a_queue_makes_jobs_that_wait_for_it(here: Here) -> None:
    (template,) = (
        each for each in here.mock.every(TEMPLATES) if each["metadata"]["name"] == "hone-stage-train"
    )
    template["metadata"]["labels"][QUEUE] = "hone"
    here.mock.change(TEMPLATES, template)
    here.begin()
    job = here.mock.job(JOB)
    assert job["spec"]["suspend"] is True and job["metadata"]["labels"][QUEUE] == "hone"
    assert QUEUE not in job["spec"]["template"]["metadata"]["labels"]
    assert here.launcher.state(NAME) == State("running", note="Waits for its turn in the queue hone")
    # Admitted, and taken back while it ran: it waits again, and is neither lost nor begun anew.
    job["spec"]["suspend"] = False
    here.mock.change(JOBS, job)
    pod = here.mock.begin_pod(JOB)
    here.mock.set_pod(pod, running(pod))
    until(lambda: here.launcher.state(NAME) == State("running"))
    here.mock.change(JOBS, here.mock.job(JOB) | {"spec": job["spec"] | {"suspend": True}})
    here.mock.remove_it(PODS, pod["metadata"]["name"])
    assert here.note() == "Waits for its turn in the queue hone"


def test_it_is_begun_once_however_often_and_by_whom(here: Here) -> None:
    here.begin()
    here.begin()
    (here.data / "stages" / NAME / "begun").unlink()  # killed before it could write that down
    here.restart().begin(NAME, here.command())
    assert len(here.mock.every(JOBS)) == 1
    assert (here.data / "stages" / NAME / "begun").exists()
    assert here.mock.asked.count(("create", "jobs")) == 2  # of which one was answered 409


def test_a_folder_that_leads_elsewhere_is_refused(here: Here) -> None:
    (here.data / "jobs" / "ftjob-abc").mkdir(parents=True)
    (here.data / "jobs" / "ftjob-abc" / "out").symlink_to("/tmp")
    here.launcher.begin(NAME, here.command())
    assert "out leads out of" in here.launcher.state(NAME).note


def test_a_job_of_somebody_else_by_that_name_is_left_alone(here: Here) -> None:
    here.begin()
    job = here.mock.job(JOB)
    job["metadata"]["annotations"] = {}
    here.mock.change(JOBS, job)
    (here.data / "stages" / NAME / "begun").unlink()
    here.restart().begin(NAME, here.command())
    assert not (here.data / "stages" / NAME / "begun").exists()
    assert "none of ours" in (here.data / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        (403, 'jobs "x" is forbidden: exceeded quota: gpus, requested: 1', "Waits for its quota: "),
        (403, "User cannot create resource jobs", "The cluster does not take its Job: "),
        (422, "spec.template: Invalid value", "The cluster does not take its Job: "),
    ],
)
def test_what_is_refused_is_told_and_tried_again_later(
    here: Here, status: int, message: str, told: str
) -> None:
    launcher = here.restart(again_seconds=0.1)
    here.mock.refuse("create", "jobs", status, message)
    launcher.begin(NAME, here.command())
    launcher.begin(NAME, here.command())
    assert launcher.state(NAME) == State("absent", note=told + message)
    assert here.mock.asked.count(("create", "jobs")) == 1
    time.sleep(0.1)
    here.begin()
    assert launcher.state(NAME) == State("running")


def test_without_its_template_a_stage_waits_for_it(here: Here) -> None:
    here.mock.remove_it(TEMPLATES, "hone-stage-train")
    here.launcher.begin(NAME, here.command())
    assert "no PodTemplate hone-stage-train in the namespace hone" in here.launcher.state(NAME).note
    (template,) = [yaml.safe_load((BASE / "train.yaml").read_text())]
    template["template"]["spec"]["containers"][0]["name"] = "trainer"
    here.mock.change(TEMPLATES, template)
    here.launcher.begin(NAME, here.command())
    assert "has no container named stage" in here.launcher.state(NAME).note


def test_the_cluster_is_the_one_of_kubeconfig(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(here.data / "kubeconfig", here.url)))
    code = (
        "from hone_api.launcher.cluster import *; c = connect(None); print(c.namespace);"
        "print(len(c.list(JOBS)['items'])); print(connect('other').namespace)"
    )
    # In a process of its own, since the client remembers where it was first.
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["hone", "0", "other"], told.stderr
    assert here.mock.tokens == {"Bearer of-the-mock"}


def test_in_a_pod_the_cluster_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for constant, name in (("SERVICE_TOKEN_FILENAME", "token"), ("SERVICE_CERT_FILENAME", "ca.crt")):
        (tmp_path / name).write_text(name)
        monkeypatch.setattr(incluster_config, constant, str(tmp_path / name))
    (tmp_path / "namespace").write_text("team\n")
    monkeypatch.setattr(cluster, "_NAMESPACE", tmp_path / "namespace")
    # Which reads the certificates.
    monkeypatch.setattr(cluster, "ApiClient", lambda configuration: configuration)
    found = connect(None)
    assert (found.namespace, found.home) == ("team", "team")
    assert (connect("other").namespace, connect("other").home) == ("other", "team")
    configuration: Any = found._client
    assert configuration.host == "https://10.0.0.1:443"
    assert configuration.get_api_key_with_prefix("BearerToken") == "bearer token"


def test_without_a_cluster_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(BadConfiguration, match="service account, or set KUBECONFIG"):
        connect(None)


def test_a_busy_cluster_is_left_alone_for_as_long_as_it_says(here: Here) -> None:
    here.mock.refuse("create", "jobs", 429, "too many requests", Retry_After="1")
    with pytest.raises(NoAnswer, match="429"):
        here.launcher.begin(NAME, here.command())
    asked = len(here.mock.asked)
    with pytest.raises(NoAnswer, match="asked for a pause"):
        here.launcher.begin(NAME, here.command())
    assert len(here.mock.asked) == asked
    here.launcher._cluster._not_before = 0.0
    here.begin()


def test_a_cluster_that_cannot_be_reached_is_no_end_of_a_stage(here: Here) -> None:
    here.begun_pod()
    lost = KubernetesLauncher(
        connected("http://127.0.0.1:9"), here.data, Reporter("api", here.data / "log.jsonl")
    )
    lost.start(0.05)
    with pytest.raises(NoAnswer):
        lost.state(NAME)
    with pytest.raises(NoAnswer):
        lost.begin("ftjob-abc/2-train", here.command())
    lost.close()
    assert here.launcher.state(NAME).state == "running"


# -- what it waits for -------------------------------------------------------------------------------


def test_events_tell_why_there_is_no_pod(here: Here) -> None:
    here.mock.warn(JOB, "FailedCreate", 'pods "x" is forbidden: exceeded quota: gpus')
    here.begin()
    assert here.note() == 'Waits for its quota: pods "x" is forbidden: exceeded quota: gpus'


def test_what_a_pod_waits_for_is_told(here: Here) -> None:
    here.begin()
    pod = here.mock.begin_pod(JOB)
    here.mock.warn(pod["metadata"]["name"], "FailedMount", "the volume is not there")
    assert here.note() == "Cannot begin yet: FailedMount: the volume is not there"
    here.mock.set_pod(pod, unschedulable(pod))
    until(lambda: "Waits for a node: 0/1 nodes" in here.launcher.state(NAME).note)
    here.launcher.state(NAME)
    assert (here.data / "log.jsonl").read_text().count(f"{NAME}: Waits for a node: 0/1 nodes") == 1
    here.mock.set_pod(pod, pulling(pod))
    until(lambda: "Its image cannot be pulled: ImagePullBackOff" in here.launcher.state(NAME).note)
    here.mock.set_pod(pod, running(pod))
    until(lambda: here.launcher.state(NAME) == State("running"))


# -- its end -----------------------------------------------------------------------------------------


def test_how_it_ended_and_what_it_said_outlives_job_and_api(here: Here) -> None:
    pod = here.begun_pod()
    assert here.launcher.state(NAME) == State("running")
    here.mock.end(pod, 65, b"step 1\nerror: no JSON\n")
    assert here.ends() == State("ended", 65)
    assert here.launcher.output(NAME).read_bytes() == b"step 1\nerror: no JSON\n"
    here.mock.remove_it(JOBS, JOB)
    here.mock.remove_it(PODS, f"{JOB}-p1")
    assert here.restart().state(NAME) == State("ended", 65)


def test_a_long_log_keeps_its_end(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.end(pod, 0, b"x" * 3 * 2**20 + b"\n{}\n")
    assert here.ends() == State("ended", 0)
    kept = here.launcher.output(NAME).read_bytes()
    assert kept.endswith(b"xx\n{}\n") and 2**20 <= len(kept) < 2**21


def test_without_a_log_its_last_words_must_do(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.refuse("get", "pods/log", 404, "container is gone")
    here.mock.end(pod, 1, b"", said="error: it is full")
    assert here.ends() == State("ended", 1)
    assert here.launcher.output(NAME).read_text() == "error: it is full"


def test_a_log_that_is_late_is_waited_for(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.refuse("get", "pods/log", 500, "kubelet does not answer")
    here.mock.end(pod, 0, b"done\n")
    until(lambda: ("get", "pods/log") in here.mock.asked or here.launcher.state(NAME).state == "ended")
    assert not (here.data / "stages" / NAME / "exit.json").exists()
    # Only its node is away: the cluster is asked on.
    assert here.ends() == State("ended", 0)
    assert here.launcher.output(NAME).read_text() == "done\n"


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (143, disrupted("PreemptionByScheduler"), State("ended", None, "PreemptionByScheduler: for another")),
        (
            137,
            {"reason": "Evicted", "message": "low on memory"},
            State("ended", None, "Evicted: low on memory"),
        ),
        (65, disrupted("EvictionByEvictionAPI"), State("ended", 65)),
        (137, {"reason": "DeadlineExceeded", "message": "too long"}, State("ended", 124, "too long")),
        (75, {}, State("ended", 75)),
        (
            9,
            {"containerStatuses": []},
            State("ended", None, "its container was never seen to end"),
        ),
    ],
)
def test_what_an_end_means(here: Here, code: int, status: dict[str, object], expected: State) -> None:
    pod = here.begun_pod()
    here.mock.end(pod, code, **status)
    assert here.ends() == expected


def test_the_end_by_memory_is_told(here: Here) -> None:
    pod = here.begun_pod()
    told = ended(pod, 137, "")
    told["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    here.mock.end(pod, 137, **told)
    assert here.ends() == State("ended", 137, "it took more memory than its limit (OOMKilled)")


def test_on_a_node_that_is_gone_it_runs_until_the_cluster_says_otherwise(here: Here) -> None:
    pod = here.begun_pod()
    going = pod | {"metadata": pod["metadata"] | {"deletionTimestamp": "2026-01-01T00:01:00Z"}}
    here.mock.set_pod(going, running(going) | disrupted("DeletionByTaintManager"))
    # Even if its Job is said to have failed already: two must never write one run.
    here.mock.finish(JOB, "BackoffLimitExceeded")
    until(lambda: "Its pod is being evicted: DeletionByTaintManager" in here.launcher.state(NAME).note)
    here.mock.remove_it(PODS, pod["metadata"]["name"])
    assert here.ends() == State("ended", None, "its pod is gone")


def test_a_pod_that_is_deleted_by_hand_is_lost_with_its_job(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.remove_it(PODS, pod["metadata"]["name"])
    here.mock.finish(JOB, "BackoffLimitExceeded")
    assert here.ends() == State("ended", None, "its pod is gone")


def test_a_job_that_is_deleted_by_hand_was_begun_and_is_lost_when_its_pod_has_ended(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.remove_it(JOBS, JOB)
    until(lambda: "Its Job was deleted" in here.launcher.state(NAME).note)
    here.mock.remove_it(PODS, pod["metadata"]["name"])
    assert here.ends() == State("ended", None, "its Job was deleted")
    # While the api was down as well.
    here.begin("ftjob-abc/2-train")
    here.close()
    here.mock.remove_it(JOBS, "ftjob-abc-2-train")
    assert here.restart().state("ftjob-abc/2-train") == State("ended", None, "its Job was deleted")


# -- stopping ----------------------------------------------------------------------------------------


def test_it_runs_until_its_pod_has_ended_after_a_stop(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.logs[pod["metadata"]["name"]] = b"step 3\n"
    here.launcher.stop(NAME)
    until(lambda: "deletionTimestamp" in str(here.launcher._jobs.get(JOB)))
    here.launcher.stop(NAME)
    assert here.mock.asked.count(("delete", "jobs")) == 1
    assert here.launcher.state(NAME).state == "running"
    assert here.launcher.output(NAME).read_text() == "step 3\n"
    with pytest.raises(RuntimeError, match="runs; stop it"):
        here.launcher.forget(NAME)
    assert here.restart().state(NAME).state == "running"
    here.mock.remove_it(PODS, pod["metadata"]["name"])
    here.mock.remove_it(JOBS, JOB)
    assert here.ends().state == "ended"


@pytest.mark.parametrize("status", [429, 500])
def test_a_node_that_is_away_keeps_no_stage_from_being_stopped(here: Here, status: int) -> None:
    here.begun_pod()
    here.mock.refuse("get", "pods/log", status, "kubelet does not answer")
    here.launcher.stop(NAME)
    assert here.mock.asked.count(("delete", "jobs")) == 1
    assert here.launcher.output(NAME).exists() is False


def test_what_comes_only_after_it_was_stopped_is_deleted(here: Here) -> None:
    """The request to make it was given up, and carried out later."""
    here.launcher.stop(NAME)
    template = yaml.safe_load((BASE / "train.yaml").read_text())
    here.mock.change(JOBS, make_job(NAME, here.command(), template, here.data))
    until(lambda: not here.mock.every(JOBS))
    here.launcher.begin(NAME, here.command())
    until(lambda: here.launcher.state(NAME).state != "running")
    assert not here.mock.every(JOBS)


def test_what_is_forgotten_is_nowhere(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.end(pod, 0, b"{}\n")
    here.ends()
    here.launcher.forget(NAME)
    assert here.mock.every(JOBS) == here.mock.every(PODS) == []
    assert not (here.data / "stages" / NAME).exists()
    until(lambda: here.launcher.state(NAME) == State("absent"))
    here.begin()


def test_what_is_forgotten_is_not_kept_in_mind_for_ever(here: Here) -> None:
    for number in range(3):
        name = f"ftjob-abc/{number}-train"
        here.begin(name)
        here.mock.finish(job_name(name))
        here.ends(name)
        here.launcher.forget(name)
        here.shows(lambda: not here.launcher._jobs.every())
    assert len(here.launcher._forgotten) == 1


def test_a_name_that_is_none_is_refused(here: Here) -> None:
    for name in ("a", "../b", "a/b/c", "a/"):
        with pytest.raises(ValueError, match="no stage's name"):
            here.launcher.state(name)


def test_names_of_jobs_are_names_and_differ() -> None:
    assert job_name("file-0a/1-check") == "file-0a-1-check"
    long = [job_name(f"ftjob-{'x' * 60}/{count}-Train") for count in (1, 2)]
    assert all(len(name) <= 52 and name == name.lower() for name in long) and long[0] != long[1]


# -- the watch ---------------------------------------------------------------------------------------


def test_a_watch_goes_on_where_it_broke_off(here: Here) -> None:
    pod = here.begun_pod()
    version = here.mock.bookmark()
    until(lambda: here.mock.watched)
    time.sleep(0.05)
    listed = here.mock.asked.count(("list", "jobs"))
    here.mock.break_watches()
    here.mock.end(pod, 0)
    assert here.ends() == State("ended", 0)
    assert here.mock.asked.count(("list", "jobs")) == listed
    # From the bookmark, which no object has as its version.
    assert any(int(each) >= version - 1 for _, each in here.mock.watched[2:])


def test_a_place_that_is_forgotten_is_listed_anew(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.set_pod(pod, unschedulable(pod))
    here.mock.break_watches(forget=True)
    here.mock.remove_it(PODS, pod["metadata"]["name"])
    here.mock.finish(JOB, "BackoffLimitExceeded")
    assert here.ends() == State("ended", None, "its pod is gone")


def test_a_watch_that_is_refused_is_tried_again(here: Here) -> None:
    here.mock.refuse("list", "jobs", 403, "not yet")
    here.mock.refuse("watch", "pods", 500, "not now", Retry_After="0")
    here.begun_pod()
    assert here.launcher.state(NAME).state == "running"
    log = [json.loads(line) for line in (here.data / "log.jsonl").read_text().splitlines()]
    assert {"watch_broken"} == {each["event"] for each in log}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_outlives_a_disk_that_cannot_be_read_and_ends_the_api_when_it_is_over(here: Here) -> None:
    here.begun_pod()
    jobs = here.launcher._jobs
    failures: list[Exception] = [OSError("stale file handle"), RuntimeError("a mistake of ours")]

    def seen(_: object) -> None:
        if failures:
            raise failures.pop(0)

    jobs._seen = seen
    here.mock.finish(JOB)
    until(lambda: len(failures) == 1)
    assert jobs.get(JOB) is not None
    # Told again at the next look, and that is where the thread ends.
    jobs._thread.join(10)
    assert '"watch_ended"' in (here.data / "log.jsonl").read_text()
    with pytest.raises(RuntimeError, match="has ended"):
        here.launcher.state(NAME)


def test_pods_of_model_servers_are_not_followed(here: Here) -> None:
    pod = here.begun_pod()
    seen: list[Any] = []
    here.launcher._pods._seen = seen.append
    labels = {"app.kubernetes.io/managed-by": "hone-api", "hone.dev/model-server": "model-bot"}
    server = {"metadata": {"name": "model-bot-p1", "labels": labels}}
    here.mock.change(PODS, server)
    here.mock.set_pod(pod, pulling(pod))
    until(lambda: seen)
    here.mock.break_watches(forget=True)
    until(lambda: len(seen) > 1)
    assert "model-bot-p1" not in str(seen)


def test_servers_are_found_and_go_again(here: Here) -> None:
    said = Upstream(url="http://said:1", model="x")
    settings = Settings(servers=[said])
    reporter = Reporter("api", here.data / "log.jsonl")
    found = FoundServers(connected(here.url), settings, reporter)
    here.mock.change(SERVICES, _service("support", {"hone.dev/name": "support bot"}))
    found.start()
    try:
        server = Upstream(url="http://support:8000", model="support bot")
        until(lambda: settings.every_server == (said, server))
        here.mock.change(SERVICES, _service("said", {"hone.dev/name": "y"}, port=1))
        here.mock.change(SERVICES, _service("silent", {}))
        log = here.data / "log.jsonl"
        until(lambda: log.exists() and "Service silent does not say" in log.read_text())
        assert settings.every_server == (said, server)
        here.mock.remove_it(SERVICES, "support")
        until(lambda: settings.every_server == (said,))
    finally:
        found.close()


def test_services_are_read_once_after_a_list_and_told_of_once(here: Here) -> None:
    settings, log = Settings(), here.data / "log.jsonl"
    found = FoundServers(connected(here.url), settings, Reporter("api", log))
    looks, find = [], found._find
    found._find = lambda: looks.append(None) or find()  # type: ignore[func-returns-value,method-assign]
    for name in ("one", "two", "three"):
        here.mock.change(SERVICES, _service(name, {"hone.dev/name": name}))
    here.mock.change(SERVICES, _service("silent", {}))
    here.mock.change(SERVICES, _service("bot", {"hone.dev/name": "bot", "hone.dev/hold-seconds": "soon"}))
    found.start()
    try:
        # It takes the hold alone away.
        bot = Upstream(url="http://bot:8000", model="bot", hold_seconds=0)
        until(lambda: bot in settings.every_server)
        before = settings.every_server
        assert (len(before), len(looks)) == (4, 1)
        here.mock.break_watches(forget=True)
        until(lambda: len(looks) == 2)
        assert all(one is other for one, other in zip(settings.every_server, before, strict=True))
        told = [json.loads(line)["message"] for line in log.read_text().splitlines()]
        assert [each.partition(":")[0] for each in told if each.startswith("Service")] == [
            "Service silent does not say what it serves",
            "Service bot does not say how long requests wait for it, so none does",
        ]
        here.mock.change(SERVICES, _service("silent", {"hone.dev/other": "x"}))
        until(lambda: log.read_text().count("Service silent") == 2)
    finally:
        found.close()


def test_servers_of_another_namespace_are_found_by_its_name(here: Here) -> None:
    settings = Settings()
    theirs = Cluster(Configuration(host=here.url), "hone", "elsewhere")
    here.mock.change(SERVICES, _service("support", {"hone.dev/name": "bot"}))
    found = FoundServers(theirs, settings, Reporter("api", here.data / "log.jsonl"))
    found.start()
    until(lambda: settings.every_server == (Upstream(url="http://support.hone.svc:8000", model="bot"),))
    found.close()


def _service(name: str, annotations: dict[str, str], port: int = 8000) -> dict[str, object]:
    labels = {"hone.dev/serves": "model"}
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    return {
        "metadata": metadata,
        "spec": {"ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": port}]},
    }


def test_every_right_is_needed(here: Here) -> None:
    found = FoundServers(connected(here.url), Settings(), Reporter("api", here.data / "log.jsonl"))
    found.start()
    here.mock.warn(JOB, "FailedCreate", "pods are forbidden")
    here.begin()
    here.note()
    (here.data / "stages" / NAME / "begun").unlink()
    here.restart().begin(NAME, here.command())
    pod = here.begun_pod()
    here.launcher.stop(NAME)
    here.mock.end(pod, 75, b"saved\n")
    here.ends()
    until(lambda: ("watch", "services") in here.mock.asked)
    found.close()
    assert set(here.mock.asked) == RIGHTS


def test_a_right_that_is_missing_is_said(here: Here) -> None:
    pod = here.begun_pod()
    here.mock.end(pod, 0)
    here.mock.refuse("list", "pods", 403, "cannot list resource pods")
    with pytest.raises(Refused, match="cannot list resource pods"):
        here.ends()
    assert here.ends() == State("ended", 0)
