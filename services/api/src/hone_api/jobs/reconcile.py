"""The loop that brings every job on. All that it knows is in the database and with the launcher, so it may be
killed at any point: the next one looks at the same things and goes on."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.exc import SQLAlchemyError

from hone_api import metrics
from hone_api.beside import beside
from hone_api.database.tables import File, Job
from hone_api.errors import ApiError
from hone_api.files.checking import check_files
from hone_api.files.expiry import expire_files
from hone_api.jobs import queue, states
from hone_api.jobs.cleaning import clean, left_behind
from hone_api.jobs.extras import is_merged
from hone_api.jobs.importing import Importing
from hone_api.jobs.results import known_models, published_as, published_models
from hone_api.jobs.running import Running
from hone_api.jobs.sharing import Sharing
from hone_api.jobs.stages import DEPLOY
from hone_api.launcher.local import LocalLauncher
from hone_api.launcher.stages import Launcher
from hone_api.services import Services
from hone_api.serving.merged import MergedServers
from hone_api.serving.names import servers_of
from hone_api.serving.presence import Listings
from hone_api.settings import Upstream
from hone_contract.errors import HoneError

_EVERY = 1.0
_END_SECONDS = 30


@dataclass(frozen=True)
class Reconciler:
    """One for each database."""

    services: Services
    launcher: Launcher
    slots: int
    gpus: Sequence[str] = ()
    servers: MergedServers | None = None

    def tick(self) -> None:
        """One look at everything that is not as it should be."""
        for work in (
            self._check_files,
            self._expire_files,
            # Before a job asks whether its model has a server.
            self._servers,
            self._jobs,
            self._imports,
            self._sharing.look,
            self._clean,
            self._count,
        ):
            self._guarded(work)

    def _jobs(self) -> None:
        with self.services.database.reading() as session:
            wanted = select(Job).where(or_(Job.status.in_(states.ACTIVE), Job.slot.is_not(None)))
            jobs = [*session.scalars(wanted.order_by(Job.number))]
            session.expunge_all()
        # What both find out by asking servers holds for all jobs of one look.
        listings = Listings(self.services.settings)
        self._guarded(lambda: listings.ask(self._awaited(jobs)))
        running = Running(self.services, self.launcher, self.gpus, listings, self.servers)
        sharing = self._sharing
        for job in jobs:
            self._guarded(lambda job=job: self._advance(job, running, sharing))  # type: ignore[misc]

    def _awaited(self, jobs: Sequence[Job]) -> list[Upstream]:
        """The servers of all models that jobs are about to end with."""
        settings = self.services.settings
        found: list[Upstream] = []
        ending = [job for job in jobs if job.status == states.RUNNING and job.stage == DEPLOY]
        with self.services.database.reading() as session:
            for job in ending:
                tunable, merged = settings.models.get(job.model), is_merged(job)
                base = tunable.stored if tunable is not None else job.model
                served_as = published_as(session, job) if merged else ""
                found += servers_of(settings, base=base, served_as=served_as, merged=merged)
        return found

    def _advance(self, job: Job, running: Running, sharing: Sharing) -> None:
        if job.status == states.RUNNING:
            running.advance(job)
        elif job.slot is not None:
            running.settle(job)
        elif job.status == states.VALIDATING:
            queue.validate(self.services, job)
        elif job.status == states.QUEUED:
            queue.start(self.services, job, self.slots, sharing)

    def _servers(self) -> None:
        if self.servers is not None:
            with self.services.database.reading() as session:
                wanted = published_models(session)
            self.servers.keep(wanted, self._known)

    def _known(self, names: Collection[str]) -> set[str]:
        with self.services.database.reading() as session:
            return known_models(session, names)

    def _imports(self) -> None:
        Importing(self.services, self.launcher, self._imports_during_runs).look()

    @property
    def _imports_during_runs(self) -> bool:
        """An import wants the CPUs, which are what a run without a GPU trains on."""
        said = self.services.settings.checkpoints
        trains_on_cpus = isinstance(self.launcher, LocalLauncher) and not self.gpus
        return not trains_on_cpus if said == "auto" else said == "during"

    @property
    def _sharing(self) -> Sharing:
        return Sharing(self.services, self.launcher)

    def _check_files(self) -> None:
        check_files(self.services, self.launcher)

    def _expire_files(self) -> None:
        expire_files(self.services)

    def _clean(self) -> None:
        for found in left_behind(self.services):
            self._guarded(lambda found=found: clean(self.launcher, *found))  # type: ignore[misc]

    def _count(self) -> None:
        with self.services.database.reading() as session:
            found = session.execute(select(Job.status, func.count()).group_by(Job.status))
            counts: dict[str, int] = {row[0]: row[1] for row in found}
            oldest = session.scalar(select(func.min(Job.created_at)).where(Job.status == states.QUEUED))
            size = session.scalar(select(func.coalesce(func.sum(File.bytes), 0)))
        for status in (*states.FINAL, *states.ACTIVE, states.PAUSED):
            metrics.JOBS.labels(status).set(counts.get(status, 0))
        metrics.QUEUE_SECONDS.set(time.time() - oldest if oldest else 0)
        metrics.FILE_BYTES.set(float(size or 0))

    def _guarded(self, work: Callable[[], None]) -> None:
        """A failure of one thing, or of the database for a while, is tried again at the next look."""
        try:
            work()
        except (SQLAlchemyError, HoneError, ApiError, OSError) as error:
            told = f"{type(error).__name__}: {error}"
            self.services.reporter.tell("reconcile_failed", told, level="error")

    def run(self, stop: threading.Event) -> None:
        last = time.monotonic()
        while not stop.is_set():
            self.tick()
            now = time.monotonic()
            metrics.LAG_SECONDS.set(now - last)
            last = now
            self.services.wake.wait(_EVERY)
            self.services.wake.clear()


def reconciling(reconciler: Reconciler, failed: Callable[[], None]) -> AbstractContextManager[None]:
    """In a thread beside the routes; `failed` is called if it ends by a mistake of ours."""
    return beside("reconcile", reconciler.run, reconciler.services.wake, failed, _END_SECONDS)
