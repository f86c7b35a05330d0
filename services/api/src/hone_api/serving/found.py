"""Servers that nobody wrote into the settings: Services of the cluster that say what they serve."""

from collections.abc import Iterator

from pydantic import ValidationError

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
        self._services = Mirror(cluster, SERVICES, SERVES, self._seen, reporter)

    def start(self, seconds: float = 10.0) -> None:
        """Waits a while for the first list."""
        self._services.start()
        self._services.wait(seconds)

    def close(self) -> None:
        self._services.close()

    def _seen(self, _: Object) -> None:
        self._settings.find(sorted(self._upstreams(), key=lambda server: server.url))

    def _upstreams(self) -> Iterator[Upstream]:
        for service in self._services.every():
            try:
                yield _upstream(service, self._cluster.host_of(service["metadata"]["name"]))
            except (ValidationError, LookupError) as error:
                name = service["metadata"]["name"]
                told = f"Service {name} does not say what it serves: {error}; see {SERVES} and {NAME}"
                self._reporter.tell("server_not_understood", told, level="warning", service=name)


def _upstream(service: Object, host: str) -> Upstream:
    """Raises LookupError and ValidationError."""
    metadata, ports = service["metadata"], service["spec"]["ports"]
    annotations = metadata["annotations"]
    port = next((each for each in ports if each.get("name") == "http"), ports[0])
    said = {metadata["labels"][SERVES]: annotations[NAME], "hold_seconds": annotations.get(HOLD, 0)}
    return Upstream.model_validate({"url": f"http://{host}:{port['port']}", **said})
