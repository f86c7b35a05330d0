"""The loop with stages as Jobs of a cluster; apart from `serve`, since the client takes long to import."""

from collections.abc import Iterator
from contextlib import contextmanager

from hone_api.jobs.reconcile import Reconciler
from hone_api.launcher.cluster import connect
from hone_api.launcher.kubernetes import KubernetesLauncher
from hone_api.services import Services
from hone_api.serving.deployed import DeployedServers
from hone_api.serving.found import FoundServers


@contextmanager
def on_cluster(services: Services) -> Iterator[Reconciler]:
    """Raises BadConfiguration when no cluster is known."""
    settings = services.settings
    cluster = connect(settings.kubernetes.namespace)
    launcher = KubernetesLauncher(cluster, settings.data, services.reporter, services.wake.set)
    found = FoundServers(cluster, settings, services.reporter)
    launcher.start()
    found.start()
    try:
        # Which GPU a run gets is the cluster's to say.
        made = DeployedServers(cluster, settings, services.reporter)
        yield Reconciler(services, launcher, settings.kubernetes.slots, servers=made)
    finally:
        found.close()
        launcher.close()
