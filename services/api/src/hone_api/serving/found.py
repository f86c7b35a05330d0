"""Servers that nobody wrote into the settings: Services of the cluster that say what they serve."""

from pydantic import ValidationError

from hone_api import metrics
from hone_api.launcher.cluster import SERVICES, Cluster, Object
from hone_api.launcher.mirror import Mirror
from hone_api.settings import Settings, Upstream
from hone_contract.events import Reporter

SERVES = "hone.dev/serves"
"""A label: `base`, with all of its adapters, or `model`, a merged one."""
NAME = "hone.dev/name"
"""An annotation: the name of either. A label's value has too few letters for it."""
HOLD = "hone.dev/hold-seconds"
"""An annotation: `hold_seconds`, as for servers of the settings."""


class FoundServers:
    """Keeps the settings' list of them up to date, from `start` to `close`."""

    def __init__(self, cluster: Cluster, settings: Settings, reporter: Reporter) -> None:
        self._cluster, self._settings, self._reporter = cluster, settings, reporter
        self._services = Mirror(cluster, SERVICES, SERVES, lambda _: self._find(), reporter)
        # By Service: the version that was read, and what it says. So each is understood, or told of, once.
        self._read: dict[str, tuple[str, Upstream | None]] = {}

    def start(self, seconds: float = 10.0) -> None:
        """Waits a while for the first list."""
        self._services.start()
        self._services.wait(seconds)

    def close(self) -> None:
        self._services.close()

    def _find(self) -> None:
        read: dict[str, tuple[str, Upstream | None]] = {}
        for service in self._services.every():
            name, version = service["metadata"]["name"], service["metadata"]["resourceVersion"]
            known = self._read.get(name)
            if known is None or known[0] != version:
                known = (version, self._upstream(service))
            read[name] = known
        self._read = read
        found = [server for _, server in read.values() if server is not None]
        self._settings.find(sorted(found, key=lambda server: server.url))
        for server in found:
            if server.hold_seconds:
                # So that whoever scales by it finds a zero before the first request.
                metrics.HELD.labels(server.url)

    def _upstream(self, service: Object) -> Upstream | None:
        """None: it is told that nobody can know."""
        name = service["metadata"]["name"]
        try:
            server = _server(service, self._cluster.host_of(name))
        except (ValidationError, LookupError) as error:
            self._tell(name, f"does not say what it serves: {error}; see {SERVES} and {NAME}")
            return None
        hold = service["metadata"]["annotations"].get(HOLD, 0)
        try:
            return Upstream.model_validate(server.model_dump() | {"hold_seconds": hold})
        except ValidationError as error:
            self._tell(name, f"does not say how long requests wait for it, so none does: {error}; see {HOLD}")
            return server

    def _tell(self, name: str, what: str) -> None:
        self._reporter.tell("server_not_understood", f"Service {name} {what}", level="warning", service=name)


def _server(service: Object, host: str) -> Upstream:
    """Raises LookupError and ValidationError."""
    metadata, ports = service["metadata"], service["spec"]["ports"]
    port = next((each for each in ports if each.get("name") == "http"), ports[0])
    said = {metadata["labels"][SERVES]: metadata["annotations"][NAME]}
    return Upstream.model_validate({"url": f"http://{host}:{port['port']}", **said})
