"""The api in the mock's cluster: what its clients hear, and what it makes of its PodTemplates."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kubectl import Object
from mock_api import Api
from mock_words import FACTS, Troubles, line

from hone_api.launcher.manifest import job_name, make_job, template_name
from hone_api.launcher.stages import Command
from hone_api.serving.deployment import TEMPLATE, make_deployment, make_service, server_name

KEY = "hone-a-key-of-the-mock"
_FIRST, _SECOND, _MERGES = CLIENTS = ("hone-tune", "hone-second", "hone-merged")
DELETES = "hone-delete"
_PODS, _JOBS, _TEMPLATES = "v1/pods", "batch/v1/jobs", "v1/podtemplates"
_DEPLOYMENTS, _SERVICES = "apps/v1/deployments", "v1/services"
_ENDS = ("answered", "cancelled", "failed")
_DATA = Path("/api-data")
_STEPS_AFTER = 4
"""That the api tells which was begun anew, before the run ends."""


@dataclass
class Tuning:
    """The fiction of it; a job is called after its client's pod."""

    heard: dict[str, list[Object]] = field(default_factory=dict)
    """By client: what its log says."""
    attempts: dict[str, int] = field(default_factory=dict)
    apis: list[str] = field(default_factory=list)
    """Pods of the api that were ready, one after another."""
    since: int = 0
    """Steps that the newest one has told."""

    def tick(self, api: Api, troubles: Troubles) -> None:
        ready = [pod for pod in api.all(_PODS) if _is_ready_api(pod)]
        if not ready:
            return
        if (name := ready[0]["metadata"]["name"]) not in self.apis:
            self.apis.append(name)
            self.since = 0
            if troubles.begins_twice and len(self.apis) > 1:
                self._begin(api, ready[0], _FIRST)
        for client in CLIENTS:
            pod = _named(api, _PODS, client)
            if pod is not None and pod["status"]["phase"] == "Running" and not self.is_over(client):
                self.heard.setdefault(client, []).extend(self._news(api, pod, troubles))
        if _named(api, _PODS, DELETES) is not None and DELETES not in self.heard:
            self.heard[DELETES] = [{"event": "deleted"}]
            if not troubles.keeps_server:
                _delete_server(api, f"ftjob-{_MERGES}")

    def log(self, client: str) -> str:
        return "".join(line(**told) for told in self.heard.get(client, []))

    def is_over(self, client: str) -> bool:
        told = self.heard.get(client)
        return bool(told) and told[-1]["event"] in _ENDS  # type: ignore[index]

    def may_end(self, stage: str) -> bool:
        """Nobody waits for a clock: the first job ends when the api was begun anew meanwhile."""
        if stage.startswith(f"ftjob-{_MERGES}/"):
            return True
        return stage.startswith(f"ftjob-{_FIRST}/") and len(self.apis) > 1 and self.since >= _STEPS_AFTER

    def _news(self, api: Api, pod: Object, troubles: Troubles) -> Iterator[Object]:
        client = pod["metadata"]["name"]
        if client not in self.attempts:
            self._begin(api, pod, client)
            yield {"event": "created", "job": f"ftjob-{client}"}
            yield {"event": "running"}
            return
        job = _named(api, _JOBS, job_name(self._stage(client)))
        if client == _SECOND and _named(api, _PODS, "hone-cancel") is not None:
            if not troubles.keeps_cancelled and job is not None:
                api.remove(_JOBS, job)
            yield {"event": "cancelled"}
            return
        assert job is not None
        ends = [each["type"] for each in job.get("status", {}).get("conditions", [])]
        waits = client == _MERGES and not troubles.makes_no_server
        if "Complete" in ends and waits and not _is_served(api, pod, f"ftjob-{client}"):
            return
        if "Complete" in ends:
            said = "I am a model." if troubles.knows_nothing else ""
            yield {"event": "succeeded", "model": "ft:one"}
            yield {
                "event": "answered",
                "model": "ft:one",
                "answers": [said or each for each in _answers(pod)],
            }
        elif ends and troubles.gives_up:
            yield {"event": "failed", "error": {"message": "the run was lost"}}
        elif ends:
            self._begin(api, pod, client)
            message = "The process was lost; it goes on from the newest checkpoint in 10 s"
            yield {"event": "message", "level": "warn", "message": message}
        else:
            self.since += 1
            yield {"event": "step", "step": len(self.heard[client])}

    def _begin(self, api: Api, like: Object, client: str) -> None:
        """The next attempt, as the real launcher makes its Job."""
        self.attempts[client] = self.attempts.get(client, 0) + 1
        stage = self._stage(client)
        template = _named(api, _TEMPLATES, template_name(stage))
        assert template is not None
        reads = _DATA / "jobs" / client
        job = make_job(stage, Command(["hone-trainer", "train"], reads=[reads]), template, _DATA)
        job["metadata"]["namespace"] = like["metadata"]["namespace"]
        api.put(_JOBS, job)

    def _stage(self, client: str) -> str:
        return f"ftjob-{client}/{self.attempts[client]}-train"


def _is_served(api: Api, like: Object, model: str) -> bool:
    """By a server that is made for it, as the real api makes one."""
    if (there := _named(api, _DEPLOYMENTS, server_name(model))) is not None:
        return "availableReplicas" in there["status"]
    template = _named(api, _TEMPLATES, TEMPLATE)
    assert template is not None
    made = {_DEPLOYMENTS: make_deployment(model, template), _SERVICES: make_service(model, template)}
    for resource, each in made.items():
        each["metadata"]["namespace"] = like["metadata"]["namespace"]
        api.put(resource, each)
    return False


def _delete_server(api: Api, model: str) -> None:
    for resource in (_DEPLOYMENTS, _SERVICES):
        there = _named(api, resource, server_name(model))
        assert there is not None
        api.remove(resource, there)


def _answers(pod: Object) -> list[str]:
    """To what the client was told to ask."""
    (container,) = pod["spec"]["containers"]
    asked = {fact.questions[0]: fact.answer for fact in FACTS}
    return [asked[word] for word in container["command"] if word in asked]


def _is_ready_api(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and pod["metadata"]["labels"]["app.kubernetes.io/name"] == "hone-api"


def _named(api: Api, resource: str, name: str) -> Object | None:
    return next((each for each in api.all(resource) if each["metadata"]["name"] == name), None)
