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
)
from hone_api.launcher.manifest import OURS
from hone_api.launcher.verdict import condition, live, newest, pod_waits_for, short
from hone_api.serving.deployment import (
    PORT,
    SERVER,
    TEMPLATE,
    make_deployment,
    make_service,
    renewed,
    server_name,
)
from hone_api.serving.found import NAME
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
        self._looked, self._kept = float("-inf"), frozenset[str]()
        # By model, of ours. None: the last look came to no end.
        self._notes: dict[str, str] | None = None
        self._told: dict[str, str] = {}

    def keep(self, models: Collection[str], known: Known) -> None:
        """Raises NoAnswer."""
        wanted, now = frozenset(models), time.monotonic()
        if wanted == self._kept and now < self._looked + self._again_seconds:
            return
        self._looked, self._kept, self._notes = now, wanted, None
        # Without it we have no right to look for more.
        template = self._cluster.get(TEMPLATES, TEMPLATE)
        try:
            self._notes = self._keep(template, known) if template is not None else {}
        except Refused as error:
            self._notes = dict.fromkeys(
                wanted, self._refused("model servers", "No server can be made", error)
            )

    def waits_for(self, model: str) -> str | None:
        if self._notes is None or model not in self._kept:
            return "It is not known whether it has a server: the cluster has not answered"
        return self._notes.get(model)

    def _keep(self, template: Object, known: Known) -> dict[str, str]:
        deployments, services = self._list(DEPLOYMENTS), self._list(SERVICES)
        pods = self._cluster.list(PODS, labels=f"{OURS},{SERVER}")["items"]
        notes = {}
        for model in sorted(self._kept):
            name = server_name(model)
            deployment = deployments.get(name)
            if deployment is None and self._is_served_elsewhere(model):
                continue
            refusal = self._make(model, template, deployment, services.get(name))
            if refusal or deployment is None or deployment["spec"]["replicas"]:
                notes[model] = refusal or _waits_for(deployment, _of(name, pods))
        for resource, there in ((SERVICES, services), (DEPLOYMENTS, deployments)):
            self._delete(resource, there, known)
        return notes

    def _list(self, resource: str) -> dict[str, Object]:
        """Those that an api has made, by name."""
        items = self._cluster.list(resource, labels=f"{OURS},{SERVER}")["items"]
        return {each["metadata"]["name"]: each for each in items}

    def _is_served_elsewhere(self, model: str) -> bool:
        ours = f"http://{self._cluster.host_of(server_name(model))}:{PORT}"
        return any(server.model == model and server.url != ours for server in self._settings.every_server)

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
        name, new = made["metadata"]["name"], made if there is None else renewed(there, made)
        if there is None:
            self._cluster.create(resource, made)
        elif new is not None:
            try:
                self._cluster.replace(resource, new)
            except Refused as error:
                if error.status != CONFLICT:
                    raise
                # It has changed meanwhile; at the next look it is seen as it is then.
                return
        if new is not None:
            done = "made" if there is None else "renewed"
            self._reporter.tell(f"model_server_{done}", f"{resource.rpartition('/')[2]}/{name}")

    def _delete(self, resource: str, there: Mapping[str, Object], known: Known) -> None:
        """Those of models that were deleted. What another database knows of is another api's."""
        models = {each["metadata"].get("annotations", {}).get(NAME, ""): name for name, each in there.items()}
        for model in known(models.keys() - self._kept):
            try:
                self._cluster.delete(resource, models[model], "Background")
            except Refused as error:
                self._refused(models[model], "It cannot be deleted", error)
                continue
            told = f"{resource.rpartition('/')[2]}/{models[model]}"
            self._reporter.tell("model_server_deleted", told)

    def _refused(self, name: str, what: str, error: Exception) -> str:
        """For the job's events; the operator is told once of each reason."""
        told = short(error.message if isinstance(error, Refused) else str(error))
        if isinstance(error, Refused) and error.status == CONFLICT:
            told = f"{name} is there, and none of ours; delete it"
        if self._told.get(name) != told:
            self._told[name] = told
            self._reporter.tell("model_server_refused", f"{name}: {what}: {told}", level="warning")
        return f"{_quota_or(told, what)}: {told}"


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
            killed = ended.get("reason") == "OOMKilled"
            why = "it took more memory than its limit (OOMKilled)" if killed else "its log says why"
            return f"Its server has ended with {ended['exitCode']} and is begun again: {why}"
    return ""


def _quota_or(told: str, other: str) -> str:
    return "Its server waits for its quota" if "exceeded quota" in told else other
