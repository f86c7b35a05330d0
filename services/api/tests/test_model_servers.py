"""Servers of merged models as Deployments, against a mock of a cluster's API."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_cluster import (
    DEPLOYMENTS,
    K8S,
    PODS,
    SERVICES,
    TEMPLATES,
    Mock,
    Object,
    connected,
    mock_cluster,
    pulling,
    rights_in,
    running,
    unschedulable,
)
from api_stages import until
from prometheus_client import generate_latest

from hone_api.launcher.cluster import NoAnswer
from hone_api.serving.deployed import DeployedServers
from hone_api.serving.deployment import server_name
from hone_api.serving.found import FoundServers
from hone_api.settings import Settings, Upstream
from hone_contract.events import Reporter

COMPONENT = K8S / "components" / "model-servers"
TEMPLATE = yaml.safe_load((COMPONENT / "server.yaml").read_text(encoding="utf-8"))
RIGHTS = rights_in(COMPONENT / "rights.yaml")
# By the api's own Role.
BESIDE = {("get", "podtemplates"), ("list", "services"), ("list", "pods")}
NAME = "model-bot"


@dataclass
class Here:
    """An api that keeps them, begun anew as often as a test likes."""

    mock: Mock
    url: str
    log: Path
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.servers = self.anew()

    def anew(self, again_seconds: float = 0.0) -> DeployedServers:
        reporter = Reporter("api", self.log)
        self.servers = DeployedServers(connected(self.url), self.settings, reporter, again_seconds)
        return self.servers

    def keep(self, *models: str) -> None:
        """All that is said in a test is known, but for what another api has."""
        self.servers.keep(set(models), lambda names: {each for each in names if "another" not in each})

    def names(self, resource: str) -> set[str]:
        return {each["metadata"]["name"] for each in self.mock.every(resource)}

    def deployment(self, name: str = NAME) -> Object:
        (found,) = (each for each in self.mock.every(DEPLOYMENTS) if each["metadata"]["name"] == name)
        return found

    def scale(self, replicas: int) -> None:
        """Somebody does."""
        changed = self.deployment()
        changed["spec"]["replicas"] = replicas
        self.mock.change(DEPLOYMENTS, changed)

    def pod(self) -> Object:
        """Of the server of `bot`."""
        template = self.deployment()["spec"]["template"]
        metadata = {"name": f"{NAME}-1", "labels": template["metadata"]["labels"]}
        return {"metadata": metadata, "spec": template["spec"]}

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with mock_cluster() as (mock, url):
        mock.change(TEMPLATES, copy.deepcopy(TEMPLATE))
        yield Here(mock, url, tmp_path / "log.jsonl")
        # Kubernetes would refuse whatever else.
        assert set(mock.asked) <= RIGHTS | BESIDE | {("watch", "services")}


def test_a_merged_model_has_a_server_of_its_own_that_is_found(here: Here) -> None:
    here.mock.kept[TEMPLATES, "hone-model-server"]["metadata"]["annotations"] = {
        "hone.dev/hold-seconds": "90"
    }
    for _ in range(3):
        here.anew()
        here.keep("bot")
    assert here.names(DEPLOYMENTS) == here.names(SERVICES) == {NAME}
    made = here.deployment()
    pod, plain = made["spec"]["template"], TEMPLATE["template"]
    labels = {"app.kubernetes.io/managed-by": "hone-api", "hone.dev/model-server": NAME}
    assert pod["metadata"]["labels"] == plain["metadata"]["labels"] | labels
    assert made["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (server,), (was,) = pod["spec"]["containers"], plain["spec"]["containers"]
    assert server["args"] == [*was["args"], "--model", "bot"]
    # All the rest is the operator's.
    assert server | {"args": was["args"]} == was
    assert pod["spec"] | {"containers": [was]} == plain["spec"]
    (service,) = here.mock.every(SERVICES)
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    found = FoundServers(connected(here.url), here.settings, Reporter("api", here.log))
    found.start()
    upstream = Upstream(url=f"http://{NAME}:8000", model="bot", hold_seconds=90)
    until(lambda: here.settings.every_server == (upstream,))
    found.close()
    # With a zero for whoever scales by it.
    assert f'hone_api_held_requests{{server="{upstream.url}"}} 0.0' in generate_latest().decode()
    # What serves it is ours, so it stays.
    here.anew()
    here.keep("bot")
    assert here.names(DEPLOYMENTS) == {NAME}


def test_words_for_vllm_stay_behind_those_of_the_server(here: Here) -> None:
    (server,) = here.mock.kept[TEMPLATES, "hone-model-server"]["template"]["spec"]["containers"]
    server["args"] += ["--", "--max-model-len", "2048"]
    here.keep("bot")
    (made,) = here.deployment()["spec"]["template"]["spec"]["containers"]
    assert made["args"][-5:] == ["--model", "bot", "--", "--max-model-len", "2048"]


def test_without_a_template_nothing_is_made_or_asked_for(here: Here) -> None:
    here.mock.remove_it(TEMPLATES, "hone-model-server")
    here.keep("bot")
    assert set(here.mock.asked) == {("get", "podtemplates")}
    assert here.servers.waits_for("bot") is None


def test_what_is_not_wanted_any_more_goes_and_what_is_not_ours_stays(here: Here) -> None:
    theirs: Object = {
        "metadata": {"name": "hone-server", "labels": {"app.kubernetes.io/name": "hone-server"}}
    }
    for kind in (DEPLOYMENTS, SERVICES):
        here.mock.change(kind, copy.deepcopy(theirs))
    # Another api's, which shares the namespace: here, nobody knows of it.
    here.keep("another")
    here.anew()
    here.keep("bot", "other")
    # Half of it was made, or is left.
    here.mock.remove_it(SERVICES, NAME)
    here.mock.remove_it(DEPLOYMENTS, "model-other")
    here.keep("bot")
    for kind in (DEPLOYMENTS, SERVICES):
        assert here.names(kind) == {"hone-server", "model-another", NAME}
    here.keep()
    for kind in (DEPLOYMENTS, SERVICES):
        assert here.names(kind) == {"hone-server", "model-another"}


def test_a_model_that_somebody_else_serves_gets_no_other_server(here: Here) -> None:
    here.settings = Settings(servers=[Upstream(url="http://mine:1", model="bot")])
    # And one that says so itself, seen at once, whatever the list of found servers knows by then.
    metadata = {
        "name": "theirs",
        "labels": {"hone.dev/serves": "model"},
        "annotations": {"hone.dev/name": "x"},
    }
    here.mock.change(SERVICES, {"metadata": metadata, "spec": {}})
    here.anew()
    here.keep("bot", "other", "x")
    assert here.names(DEPLOYMENTS) == {"model-other"}
    assert here.servers.waits_for("bot") is None and here.servers.waits_for("other") == ""


def test_another_template_is_for_those_that_are_there_too(here: Here) -> None:
    here.keep("bot")
    here.scale(3)
    here.keep("bot")
    assert ("update", DEPLOYMENTS) not in here.mock.asked
    template = copy.deepcopy(TEMPLATE)
    template["template"]["spec"]["containers"][0]["image"] = "hone-server:next"
    here.mock.change(TEMPLATES, template)
    # It has changed between our look and our words; the next look has it as it is.
    here.mock.refuse("update", DEPLOYMENTS, 409, "the object has been modified")
    here.keep("bot")
    here.keep("bot")
    spec = here.deployment()["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["containers"][0]["image"]) == (3, "hone-server:next")
    before = len(here.mock.asked)
    here.keep("bot")
    assert ("update", DEPLOYMENTS) not in here.mock.asked[before:]


@pytest.mark.parametrize(
    ("kind", "message", "told"),
    [
        (DEPLOYMENTS, "exceeded quota: servers", "Its server waits for its quota: exceeded quota: servers"),
        (SERVICES, "denied by a webhook", "The cluster does not take its server: denied by a webhook"),
    ],
)
def test_what_is_refused_is_said_keeps_nobody_else_waiting_and_is_tried_again(
    here: Here, kind: str, message: str, told: str
) -> None:
    here.mock.refuse("create", kind, 403, message)
    here.keep("bot", "other")
    assert (here.servers.waits_for("bot"), here.servers.waits_for("other")) == (told, "")
    assert message in here.told()
    here.keep("bot", "other")
    assert here.servers.waits_for("bot") == ""
    for each in (DEPLOYMENTS, SERVICES):
        assert here.names(each) == {NAME, "model-other"}


def test_what_cannot_be_deleted_keeps_nobody_waiting_and_is_told_once(here: Here) -> None:
    here.keep("bot")
    for status in (403, 403, 500):
        here.mock.refuse("delete", DEPLOYMENTS, status, "by a policy")
        here.keep("other")
        assert here.servers.waits_for("other") == ""
    assert here.names(DEPLOYMENTS) == {NAME, "model-other"} and here.told().count("by a policy") == 2
    here.keep("other")
    assert here.names(DEPLOYMENTS) == {"model-other"}


def test_one_that_the_cluster_does_not_answer_for_keeps_no_other_waiting(here: Here) -> None:
    here.mock.refuse("create", DEPLOYMENTS, 500, "failed calling webhook")
    here.keep("bot", "other")
    assert here.names(DEPLOYMENTS) == {"model-other"}
    assert "failed calling webhook" in (here.servers.waits_for("bot") or "")


def test_a_service_follows_its_template_and_what_others_wrote_stays(here: Here) -> None:
    template = here.mock.kept[TEMPLATES, "hone-model-server"]
    template["metadata"]["annotations"] = {"hone.dev/hold-seconds": "90"}
    here.keep("bot")
    (service,) = here.mock.every(SERVICES)
    service["metadata"]["annotations"]["example.org/note"] = "mine"
    service["spec"]["clusterIP"] = "10.0.0.1"
    here.mock.change(SERVICES, service)
    for seconds in ("600", None):
        template["metadata"]["annotations"] = {"hone.dev/hold-seconds": seconds} if seconds else {}
        here.keep("bot")
        (service,) = here.mock.every(SERVICES)
        assert service["metadata"]["annotations"].get("hone.dev/hold-seconds") == seconds
        assert service["metadata"]["annotations"]["example.org/note"] == "mine"
        assert service["spec"]["clusterIP"] == "10.0.0.1"


def test_what_only_the_cluster_or_a_deployer_writes_is_no_change(here: Here) -> None:
    here.keep("bot")
    template = copy.deepcopy(TEMPLATE)
    template["template"]["metadata"]["creationTimestamp"] = None
    template["metadata"]["labels"]["app.kubernetes.io/instance"] = "argo"
    here.mock.change(TEMPLATES, template)
    here.keep("bot")
    assert ("update", DEPLOYMENTS) not in here.mock.asked
    assert "app.kubernetes.io/instance" not in here.deployment()["metadata"]["labels"]


def test_one_of_that_name_that_is_not_ours_is_left_alone(here: Here) -> None:
    here.mock.change(DEPLOYMENTS, {"metadata": {"name": NAME}, "spec": {"replicas": 1}})
    here.keep("bot")
    assert "none of ours" in (here.servers.waits_for("bot") or "")
    here.keep()
    assert here.names(DEPLOYMENTS) == {NAME}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (unschedulable, "Its server is not up (waits for a node): 0/1 nodes are available"),
        (pulling, "Its server is not up (its image cannot be pulled): ImagePullBackOff"),
        (running, ""),
        (lambda pod: _fallen(pod, "Error"), "Its server has ended with 65 and is begun again: its log"),
        (lambda pod: _fallen(pod, "OOMKilled"), "Its server has ended with 65 and is begun again: it took"),
    ],
)
def test_what_it_waits_for_is_told(here: Here, status: Any, told: str) -> None:
    here.keep("bot")
    pod = here.pod()
    here.mock.change(PODS, {**pod, "status": status(pod)})
    here.keep("bot")
    note = here.servers.waits_for("bot")
    assert note is not None and note.startswith(told) and bool(note) is bool(told)


def _fallen(pod: Object, reason: str) -> Object:
    status: Object = running(pod)
    status["containerStatuses"][0]["lastState"] = {"terminated": {"exitCode": 65, "reason": reason}}
    return status


def test_pods_that_the_cluster_refuses_are_told(here: Here) -> None:
    here.keep("bot")
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": "pods are forbidden: exceeded quota: gpus",
    }
    here.mock.change(DEPLOYMENTS, here.deployment() | {"status": {"conditions": [failure]}})
    here.keep("bot")
    assert here.servers.waits_for("bot") == (
        "Its server waits for its quota: pods are forbidden: exceeded quota: gpus"
    )


def test_of_one_that_is_scaled_to_zero_nobody_waits(here: Here) -> None:
    here.keep("bot")
    here.scale(0)
    here.keep("bot")
    assert here.servers.waits_for("bot") is None


def test_a_template_without_a_server_is_said(here: Here) -> None:
    here.mock.kept[TEMPLATES, "hone-model-server"]["template"]["spec"]["containers"][0]["name"] = "main"
    here.keep("bot")
    assert "has no container named server" in (here.servers.waits_for("bot") or "")


def test_a_cluster_that_does_not_answer_is_no_sign_that_there_is_none(here: Here) -> None:
    here.keep("bot")
    here.mock.refuse("list", DEPLOYMENTS, 503)
    with pytest.raises(NoAnswer):
        here.keep("bot")
    # What was so before is so still; of what was not asked for, nothing is known.
    assert here.servers.waits_for("bot") == ""
    with pytest.raises(NoAnswer):
        here.servers.waits_for("other")


def test_rights_that_are_missing_are_told_to_the_job_which_does_not_wait_for_ever(here: Here) -> None:
    here.mock.refuse("list", DEPLOYMENTS, 403, "cannot list resource deployments")
    here.keep("bot")
    assert here.servers.waits_for("bot") == "No server can be made: cannot list resource deployments"
    assert "cannot list resource deployments" in here.told()
    here.keep("bot")
    assert here.servers.waits_for("bot") == ""


def test_it_looks_again_at_once_for_another_model_and_else_now_and_then(here: Here) -> None:
    here.anew(again_seconds=3600)
    here.keep("bot")
    before = len(here.mock.asked)
    here.keep("bot")
    assert len(here.mock.asked) == before
    here.keep("bot", "other")
    assert here.names(DEPLOYMENTS) == {NAME, "model-other"}


def test_names_are_those_of_services_and_differ() -> None:
    long = "a-project-with-long-n-a-suffix-that-is-very-long-too-0123456789"
    assert len(server_name(long)) <= 63 and server_name(long) != server_name(long[:-1])
    assert server_name("1st") == "model-1st"


def test_every_right_is_needed(here: Here) -> None:
    here.keep("bot", "other")
    template = copy.deepcopy(TEMPLATE)
    template["template"]["spec"]["containers"][0]["image"] = "hone-server:next"
    template["metadata"]["annotations"] = {"hone.dev/hold-seconds": "90"}
    here.mock.change(TEMPLATES, template)
    here.keep("bot")
    assert set(here.mock.asked) == RIGHTS | BESIDE
