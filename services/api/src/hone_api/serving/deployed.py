"""Servers of merged models as Deployments of the cluster, where the operator has a template for them.

What is there is asked of the cluster at each look, and what is to be there of the database: so whoever looks
next goes on, whatever became of the one before.
"""

import time
from collections.abc import Collection, Iterable, Mapping

from hone_api.launcher.cluster import (
    CONFLICT,
    DEPLOYMENTS,
    PODS,
    SERVICES,
    TEMPLATES,
    Cluster,
    NoAnswer,
    Object,
    Refused,
    message_of,
)
from hone_api.launcher.manifest import OURS
from hone_api.launcher.verdict import OUT_OF_MEMORY, condition, is_quota, live, newest, pod_waits_for, short
from hone_api.serving.deployment import (
    SERVER,
    TEMPLATE,
    make_deployment,
    make_service,
    renewed,
    server_name,
)
from hone_api.serving.found import NAME, SERVES
from hone_api.serving.merged import Known
from hone_api.settings import Settings
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter

_AGAIN_SECONDS = 10.0
"""Between two looks, where no other models are to be served than before."""


class DeployedServers:
    """Implements `MergedServers`."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        reporter: Reporter,
        again_seconds: float = _AGAIN_SECONDS,
    ) -> None:
        self._cluster, self._settings, self._reporter = cluster, settings, reporter
        self._again_seconds = again_seconds
        # The last look, and what it was for.
        self._looked, self._wanted = float("-inf"), frozenset[str]()
        # The last one that came to its end, and what it found of each model's server.
        self._kept, self._notes = frozenset[str](), dict[str, str]()
        self._told: dict[str, str] = {}

    def keep(self, models: Collection[str], known: Known) -> None:
        """Raises NoAnswer."""
        wanted, now = frozenset(models), time.monotonic()
        if wanted == self._wanted and now < self._looked + self._again_seconds:
            return
        self._looked, self._wanted = now, wanted
        # Without it we have no right to look for more.
        template = self._cluster.get(TEMPLATES, TEMPLATE)
        try:
            self._notes = self._keep(wanted, template, known) if template is not None else {}
            self._told.pop(TEMPLATE, None)
        except Refused as error:
            self._notes = dict.fromkeys(wanted, self._refused(TEMPLATE, "No server can be made", error))
        self._kept = wanted

    def waits_for(self, model: str) -> str | None:
        """Raises NoAnswer when no look for this model has come to its end."""
        if model not in self._kept:
            raise NoAnswer(f"whether {model} has a server is not known yet")
        return self._notes.get(model)

    def _keep(self, wanted: frozenset[str], template: Object, known: Known) -> dict[str, str]:
        deployments = self._list(DEPLOYMENTS, f"{OURS},{SERVER}")
        every = self._list(SERVICES, SERVES)
        services = {name: each for name, each in every.items() if SERVER in each["metadata"]["labels"]}
        elsewhere = {server.model for server in self._settings.servers}
        elsewhere |= {_model_of(each) for name, each in every.items() if name not in services}
        pods = self._cluster.list(PODS, labels=f"{OURS},{SERVER}")["items"]
        notes = {}
        for model in sorted(wanted):
            name = server_name(model)
            deployment = deployments.get(name)
            if deployment is None and model in elsewhere:
                continue
            refusal = self._make(model, template, deployment, services.get(name))
            if refusal or deployment is None or deployment["spec"]["replicas"]:
                notes[model] = refusal or _waits_for(deployment, _of(name, pods))
        surplus = {_model_of(each) for there in (deployments, services) for each in there.values()} - wanted
        for model in known(surplus):
            self._delete(server_name(model), deployments, services)
        return notes

    def _list(self, resource: str, labels: str) -> dict[str, Object]:
        """By name."""
        items = self._cluster.list(resource, labels=labels)["items"]
        return {each["metadata"]["name"]: each for each in items}

    def _make(self, model: str, template: Object, deployment: Object | None, service: Object | None) -> str:
        """What is missing of it, or older than the template; why the cluster does not take it."""
        try:
            self._put(DEPLOYMENTS, deployment, make_deployment(model, template))
            self._put(SERVICES, service, make_service(model, template))
        except (Refused, BadConfiguration, NoAnswer) as error:
            # Of one: what is in the way of it may be in no other's.
            return self._refused(server_name(model), "The cluster does not take its server", error)
        self._told.pop(server_name(model), None)
        return ""

    def _put(self, resource: str, there: Object | None, made: Object) -> None:
        new = made if there is None else renewed(there, made)
        if new is None:
            return
        try:
            if there is None:
                self._cluster.create(resource, new)
            else:
                self._cluster.replace(resource, new)
        except Refused as error:
            if there is None or error.status != CONFLICT:
                raise
            # It has changed meanwhile; at the next look it is seen as it is then.
            return
        done = "made" if there is None else "renewed"
        self._reporter.tell(f"model_server_{done}", _called(resource, made["metadata"]["name"]))

    def _delete(self, name: str, deployments: Mapping[str, Object], services: Mapping[str, Object]) -> None:
        """Of a model that was deleted. What another database knows of is another api's."""
        for resource, there in ((SERVICES, services), (DEPLOYMENTS, deployments)):
            if name not in there:
                continue
            try:
                self._cluster.delete(resource, name, "Background")
            except (Refused, NoAnswer) as error:
                self._refused(name, f"{_called(resource, name)} cannot be deleted", error)
                continue
            self._told.pop(name, None)
            self._reporter.tell("model_server_deleted", _called(resource, name))

    def _refused(self, name: str, what: str, error: Exception) -> str:
        """For the job's events; the operator is told once of each reason."""
        told = short(message_of(error))
        if isinstance(error, Refused) and error.reason == "AlreadyExists":
            told = f"{name} is there, and none of ours; delete it"
        if self._told.get(name) != told:
            self._told[name] = told
            self._reporter.tell("model_server_refused", f"{name}: {what}: {told}", level="warning")
        return f"{_quota_or(told, what)}: {told}"


def _model_of(made: Object) -> str:
    return str(made["metadata"].get("annotations", {}).get(NAME, ""))


def _called(resource: str, name: str) -> str:
    return f"{resource.rpartition('/')[2]}/{name}"


def _of(name: str, pods: Iterable[Object]) -> list[Object]:
    return [each for each in pods if each["metadata"]["labels"][SERVER] == name]


def _waits_for(deployment: Object | None, pods: list[Object]) -> str:
    """Empty where nothing is in its way, which then only takes its time."""
    if deployment is None:
        return ""
    failure = condition(deployment, "ReplicaFailure")
    if failure is not None:
        told = short(failure.get("message", ""))
        return f"{_quota_or(told, 'Its server has no pod')}: {told}"
    pod = newest(live(pods))
    if pod is None:
        return ""
    what, _, why = pod_waits_for(pod).partition(": ")
    return f"Its server is not up ({what[0].lower()}{what[1:]}): {short(why)}" if what else _fell(pod)


def _fell(pod: Object) -> str:
    """A server whose model is refused by its gate, say, ends, and is begun again by its node."""
    for each in pod["status"].get("containerStatuses", []):
        ended = each.get("lastState", {}).get("terminated")
        if ended is not None and not each.get("ready"):
            why = OUT_OF_MEMORY if ended.get("reason") == "OOMKilled" else "its log says why"
            return f"Its server has ended with {ended['exitCode']} and is begun again: {why}"
    return ""


def _quota_or(told: str, other: str) -> str:
    return "Its server waits for its quota" if is_quota(told) else other
