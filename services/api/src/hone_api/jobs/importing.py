"""Checkpoints become adapters, one after another, so that each can be asked by a name of its own.

A run removes its older checkpoints while it trains: one that went before it was read is forgotten. One of
which no adapter can be made is given up, and told of. Neither changes how the job ends.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hone_api.database.tables import Checkpoint, Job
from hone_api.jobs import states
from hone_api.jobs.progress import Run
from hone_api.jobs.results import checkpoint_name, forget_checkpoint
from hone_api.jobs.stages import Failure, failure_of, import_command, import_name
from hone_api.jobs.steps import base_of_checkpoint, has_store
from hone_api.jobs.telling import for_clients
from hone_api.jobs.workspace import run_name
from hone_api.launcher.stages import Command, Launcher, State
from hone_api.services import Services
from hone_contract.artifact import PARTIAL
from hone_contract.errors import HoneError
from hone_contract.store import Store

_PATIENCE = 600
"""Seconds that one may wait for a node or its quota while others have their turn coming, and then rests."""


@dataclass(frozen=True)
class Importing:
    """Makes one adapter at a time, of all jobs' checkpoints."""

    services: Services
    launcher: Launcher
    during: bool
    """Whether those of a job that has not ended are taken too."""

    def look(self) -> None:
        """Begin the stage of the checkpoint whose turn it is, or see what came of it."""
        found = (self._under_way() or self._take_next()) if has_store(self._store) else None
        if found is None:
            return
        checkpoint, job = found
        name = import_name(job, checkpoint)
        state = self.launcher.state(name)
        if self._waits_too_long(job, name, state) and self._put_back(checkpoint, name):
            return
        if state.state == "absent":
            self._begin(checkpoint, job, name)
        elif state.state == "ended":
            made = self._made(checkpoint, job)
            failure = failure_of(state, self.launcher.output(name), "import")
            if failure is None and made is None:
                failure = Failure("server_error", "The import has left no adapter")
            if failure is not None:
                self._failed(checkpoint, job, failure)
            else:
                self._finish(checkpoint, made or "")

    # -- whose turn it is --------------------------------------------------------------------------

    def _under_way(self) -> tuple[Checkpoint, Job] | None:
        wanted = select(Checkpoint, Job).join(Job, Job.number == Checkpoint.job_number)
        with self.services.database.reading() as session:
            found = session.execute(
                wanted.where(Checkpoint.served_as.is_(None), Checkpoint.importing.is_(True)).limit(1)
            ).first()
            session.expunge_all()
        return None if found is None else (found[0], found[1])

    def _take_next(self) -> tuple[Checkpoint, Job] | None:
        with self.services.database.reading() as session:
            number = self._next(session)
        if number is None:
            return None
        with self.services.database.writing() as session:
            checkpoint = session.get(Checkpoint, number, with_for_update=True)
            if checkpoint is None:
                return None
            checkpoint.importing, checkpoint.attempt = True, checkpoint.attempt + 1
            return checkpoint, session.get_one(Job, checkpoint.job_number)

    def _next(self, session: Session) -> int | None:
        """Of each job the newest, which the run removes last; among jobs, whose has waited longest."""
        newest = select(func.max(Checkpoint.number)).where(
            Checkpoint.served_as.is_(None),
            Checkpoint.importing.is_(False),
            Checkpoint.not_before <= int(time.time()),
        )
        if not self.during:
            newest = newest.join(Job, Job.number == Checkpoint.job_number).where(Job.status.in_(states.FINAL))
        return min(session.scalars(newest.group_by(Checkpoint.job_number)), default=None)

    def _waits_too_long(self, job: Job, name: str, state: State) -> bool:
        """What it waits for is told once for each thing, however often it is tried."""
        about = state.waits_for
        if not about:
            return False
        known = job.progress.get("import_waits", {})
        since = known["since"] if known.get("stage") == name else time.time()
        waits = {"stage": name, "for": about, "since": since}
        if waits != known:
            with self.services.database.writing() as session:
                current = session.get_one(Job, job.number, with_for_update=True)
                current.progress = {**current.progress, "import_waits": waits}
                if about != known.get("for"):
                    told = for_clients(state.note, self.services.settings, job)
                    states.tell(
                        session, current, f"A checkpoint's adapter is not made yet: {told}", level="warn"
                    )
        return bool(time.time() > since + _PATIENCE)

    def _put_back(self, checkpoint: Checkpoint, name: str) -> bool:
        """Whether another has its turn now; without one, this might as well wait on."""
        with self.services.database.reading() as session:
            if self._next(session) is None:
                return False
        self.launcher.stop(name)
        with self.services.database.writing() as session:
            if (current := _same(session, checkpoint)) is not None:
                current.importing, current.not_before = False, int(time.time() + _PATIENCE)
        self.services.wake.set()
        return True

    # -- one of them -------------------------------------------------------------------------------

    def _begin(self, checkpoint: Checkpoint, job: Job, name: str) -> None:
        try:
            command = self._command(checkpoint, job)
        except HoneError as error:
            self._failed(checkpoint, job, Failure("server_error", str(error)))
            return
        self.launcher.begin(name, command)

    def _command(self, checkpoint: Checkpoint, job: Job) -> Command:
        """Raises HoneError: the checkpoint is not there, or does not say of which base it is."""
        folder = self._folder(checkpoint, job)
        base = base_of_checkpoint(folder)
        return import_command(self.services.settings, folder, base, checkpoint_name(job, checkpoint.step))

    def _finish(self, checkpoint: Checkpoint, adapter: str) -> None:
        with self.services.database.writing() as session:
            if (current := _same(session, checkpoint)) is not None:
                current.served_as, current.importing = adapter, False
        # The next one need not wait.
        self.services.wake.set()

    def _failed(self, checkpoint: Checkpoint, job: Job, failure: Failure) -> None:
        settings, step = self.services.settings, checkpoint.step
        reason = for_clients(failure.message, settings, job)
        is_gone = not self._folder(checkpoint, job).exists()
        with self.services.database.writing() as session:
            current = _same(session, checkpoint)
            if current is None:
                return
            current.importing = False
            if is_gone:
                forget_checkpoint(session, current)
                return
            if failure.may_pass and current.attempt <= settings.local.retries:
                wait = settings.local.wait_before(current.attempt)
                current.not_before = int(time.time() + wait)
                again = (
                    f"The checkpoint of step {step} has no adapter yet: {reason}; it is made in {wait:.0f} s"
                )
                states.tell(session, job, again, level="warn")
                return
            current.served_as = ""
            told = f"The checkpoint of step {step} cannot be asked: {reason}"
            states.tell(session, job, told, level="warn")
        told = f"{job.id}: the checkpoint of step {step} is given up: {failure.message}"
        self.services.reporter.tell(
            "import_failed", told, level="warning", job=job.id, step=step, output=failure.output
        )

    def _made(self, checkpoint: Checkpoint, job: Job) -> str | None:
        pattern = f"adapters/{checkpoint_name(job, checkpoint.step)}-*"
        found = [path.name for path in self._store.root.glob(pattern) if PARTIAL not in path.name]
        return max(found, default=None)

    def _folder(self, checkpoint: Checkpoint, job: Job) -> Path:
        """Where the run has it, or had it."""
        return Run(self._store, run_name(job)).checkpoint(checkpoint.step)

    @property
    def _store(self) -> Store:
        return Store(self.services.settings.store)


def _same(session: Session, checkpoint: Checkpoint) -> Checkpoint | None:
    """As it is now. None: it is not being made any more."""
    current = session.get(Checkpoint, checkpoint.number, with_for_update=True)
    is_same = current is not None and current.importing and current.attempt == checkpoint.attempt
    return current if is_same else None
