"""Servers of merged models as Deployments of the cluster, where the operator has a template for them.

What is there is asked of the cluster at each look, and what is to be there of the database: so whoever looks
next goes on, whatever became of the one before.
"""

import time
from collections.abc import Collection, Iterable

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
from hone_api.launcher.verdict import condition, live, newest, pod_waits_for
from hone_api.serving.deployment import (
    PORT,
    SERVER,
    TEMPLATE,
    make_deployment,
    make_service,
    renewed,
    server_name,
)
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

    def keep(self, models: Collection[str]) -> None:
        """Raises NoAnswer."""
        wanted, now = frozenset(models), time.monotonic()
        if wanted == self._kept and now < self._looked + self._again_seconds:
            return
        self._looked, self._kept, self._notes = now, wanted, None
        # Without it we have no right to look for more.
        template = self._cluster.get(TEMPLATES, TEMPLATE)
        try:
            self._notes = self._keep(wanted, template) if template is not None else {}
        except Refused as error:
            self._reporter.tell("model_servers_refused", f"{error}", level="error")
            self._notes = dict.fromkeys(wanted, f"No server can be made for it: {error.message}")

    def waits_for(self, model: str) -> str | None:
        """Raises NoAnswer after a look that came to no end."""
        if self._notes is None:
            raise NoAnswer("what the cluster has of our servers is not known yet")
        return self._notes.get(model)

    def _keep(self, wanted: frozenset[str], template: Object) -> dict[str, str]:
        deployments, services = (self._list(kind) for kind in (DEPLOYMENTS, SERVICES))
        names = {server_name(model): model for model in wanted}
        for resource, there in ((SERVICES, services), (DEPLOYMENTS, deployments)):
            for name in there.keys() - names.keys():
                self._cluster.delete(resource, name, "Background")
                self._reporter.tell("model_server_deleted", f"{resource.rpartition('/')[2]}/{name}")
        pods = self._cluster.list(PODS, labels=f"{OURS},{SERVER}")["items"]
        notes = {}
        for name, model in sorted(names.items()):
            deployment, service = deployments.get(name), services.get(name)
            if deployment is None and self._is_served_elsewhere(model):
                continue
            refusal = self._make(model, template, deployment, service)
            if refusal or deployment is None or deployment["spec"]["replicas"]:
                notes[model] = refusal or _waits_for(deployment, _of(name, pods))
        return notes

    def _list(self, resource: str) -> dict[str, Object]:
        """Ours, by name."""
        items = self._cluster.list(resource, labels=f"{OURS},{SERVER}")["items"]
        return {each["metadata"]["name"]: each for each in items}

    def _is_served_elsewhere(self, model: str) -> bool:
        ours = f"http://{self._cluster.host_of(server_name(model))}:{PORT}"
        return any(server.model == model and server.url != ours for server in self._settings.every_server)

    def _make(self, model: str, template: Object, deployment: Object | None, service: Object | None) -> str:
        """What is missing of it, or older than the template; why the cluster does not take it."""
        name = server_name(model)
        try:
            made = make_deployment(model, template)
            if deployment is None:
                self._cluster.create(DEPLOYMENTS, made)
                self._reporter.tell("model_server_made", f"{name} for {model}")
            elif (new := renewed(deployment, made)) is not None:
                self._cluster.replace(DEPLOYMENTS, new)
                self._reporter.tell("model_server_renewed", f"{name} for {model}")
            if service is None:
                self._cluster.create(SERVICES, make_service(model, template))
        except (Refused, BadConfiguration) as error:
            told = error.message if isinstance(error, Refused) else str(error)
            if isinstance(error, Refused) and error.status == CONFLICT:
                told = f"{name} is there, and none of ours, or changes just now"
            self._reporter.tell("model_server_refused", f"{name}: {told}", level="warning")
            return f"{_quota_or(told, 'The cluster does not take its server')}: {told}"
        return ""


def _of(name: str, pods: Iterable[Object]) -> list[Object]:
    return [each for each in pods if each["metadata"]["labels"][SERVER] == name]


def _waits_for(deployment: Object | None, pods: list[Object]) -> str:
    """Empty where nothing is in its way, which then only takes its time."""
    if deployment is None:
        return ""
    failure = condition(deployment, "ReplicaFailure")
    if failure is not None:
        told = failure.get("message", "")
        return f"{_quota_or(told, 'Its server has no pod')}: {told}"
    pod = newest(live(pods))
    if pod is None:
        return ""
    what, _, why = pod_waits_for(pod).partition(": ")
    return f"Its server is not up ({what[0].lower()}{what[1:]}): {why}" if what else _fell(pod)


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
