"""What is done for a job that has succeeded: its checkpoints become adapters, one after another.

The model itself is there by then, so a checkpoint of which none can be made is given up, and told of.
"""

import time
from dataclasses import dataclass

from sqlalchemy.orm import Session

from hone_api.database.tables import Job
from hone_api.jobs.results import checkpoint_name, give_up_checkpoint, next_checkpoint, record_adapter
from hone_api.jobs.stages import END, IMPORT, Failure, failure_of, import_command, stage_name
from hone_api.jobs.steps import base_of, enter, same, try_again
from hone_api.jobs.telling import for_clients
from hone_api.launcher.stages import Command, Launcher
from hone_api.services import Services
from hone_contract.artifact import PARTIAL
from hone_contract.errors import HoneError
from hone_contract.store import Store


def enter_next_import(session: Session, job: Job) -> None:
    """To the oldest checkpoint that is left, or to the job's end."""
    session.flush()
    enter(job, END if next_checkpoint(session, job) is None else IMPORT)


@dataclass(frozen=True)
class Importing:
    """Brings one job on."""

    services: Services
    launcher: Launcher

    def advance(self, job: Job) -> None:
        """One look: begin the stage of the next checkpoint, or see what came of it."""
        if time.time() < job.not_before:
            return
        name = stage_name(job)
        state = self.launcher.state(name)
        if state.state == "running":
            return
        step = self._step(job)
        if state.state == "absent":
            try:
                command = self._command(job, step)
            except HoneError as error:
                self._failed(job, step, Failure("server_error", str(error)))
                return
            self.launcher.begin(name, command)
            return
        failure = failure_of(state, self.launcher.output(name), job.stage)
        made = self._made(job, step)
        if failure is None and made is None:
            failure = Failure("server_error", "The import has left no adapter")
        if failure is not None:
            self._failed(job, step, failure)
            return
        with self.services.database.writing() as session:
            if (current := same(session, job)) is not None:
                record_adapter(session, current, step, made or "")
                enter_next_import(session, current)

    def _command(self, job: Job, step: int) -> Command:
        """Raises HoneError: the adapter of the run, which knows the base, is not there."""
        assert job.run_id is not None
        folder = self._store.checkpoint(job.run_id, step)
        base = base_of(self._store, job.run_id)
        return import_command(self.services.settings, folder, base, checkpoint_name(job, step))

    def _failed(self, job: Job, step: int, failure: Failure) -> None:
        settings = self.services.settings
        reason = for_clients(failure.message, settings, job)
        with self.services.database.writing() as session:
            current = same(session, job)
            if current is None or try_again(session, current, failure, _again(step, reason), settings.local):
                return
            give_up_checkpoint(session, current, step, reason)
            enter_next_import(session, current)
        told = f"{job.id}: the checkpoint of step {step} is given up: {failure.message}"
        self.services.reporter.tell(
            "import_failed", told, level="warning", job=job.id, step=step, output=failure.output
        )

    def _made(self, job: Job, step: int) -> str | None:
        pattern = f"adapters/{checkpoint_name(job, step)}-*"
        found = [path.name for path in self._store.root.glob(pattern) if PARTIAL not in path.name]
        return max(found, default=None)

    def _step(self, job: Job) -> int:
        """Of the checkpoint that the stage is about."""
        with self.services.database.reading() as session:
            return next_checkpoint(session, job) or 0

    @property
    def _store(self) -> Store:
        return Store(self.services.settings.store)


def _again(step: int, reason: str) -> str:
    return f"The checkpoint of step {step} has no adapter yet: {reason}; it is made"
