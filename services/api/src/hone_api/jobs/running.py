"""Jobs that run: their stages one after another, each begun once, and what comes of them."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.orm import Session

from hone_api.database.tables import Job
from hone_api.files.adding import kept
from hone_api.jobs import states
from hone_api.jobs.extras import read_extras
from hone_api.jobs.progress import Progress, Run
from hone_api.jobs.queue import workspace_of
from hone_api.jobs.results import (
    add_checkpoints,
    add_results,
    checkpoint_name,
    give_up_checkpoint,
    make_model,
    model_name,
    next_checkpoint,
    published_as,
    record_adapter,
)
from hone_api.jobs.stages import (
    DEPLOY,
    END,
    IMPORT,
    MERGE,
    TRAIN,
    Failure,
    failure_of,
    import_command,
    merge_command,
    stage_name,
    train_command,
)
from hone_api.jobs.workspace import run_name
from hone_api.launcher.stages import Command, Launcher, State
from hone_api.services import Services
from hone_api.serving.presence import presence
from hone_contract.artifact import open_artifact
from hone_contract.errors import HoneError
from hone_contract.store import Store

_PATIENCE = 600
"""Seconds that a server may take to list a new model."""


@dataclass(frozen=True)
class Running:
    """Brings one job on."""

    services: Services
    launcher: Launcher
    gpus: Sequence[str]
    """What CUDA_VISIBLE_DEVICES is for each slot; empty without any."""

    def advance(self, job: Job) -> None:
        """One look at a running job: begin its stage, tell its news, go on when the stage has ended."""
        if job.stage == DEPLOY:
            self._deploy(job)
            return
        if time.time() < job.not_before:
            return
        name = stage_name(job)
        state = self.launcher.state(name)
        if state.state == "absent":
            self.launcher.begin(name, self._command(job))
            return
        if job.stage == TRAIN:
            self._tell_news(job)
        if state.state == "ended":
            self._ended(job, state)

    def settle(self, job: Job) -> None:
        """Stop what runs of a job that was cancelled or paused; its slot is free when that has ended."""
        name = stage_name(job)
        if self.launcher.state(name).state == "running":
            self.launcher.stop(name)
            return
        if job.stage == TRAIN:
            self._tell_news(job)
        with self.services.database.writing() as session:
            current = session.get_one(Job, job.number, with_for_update=True)
            if current.status != states.RUNNING and current.attempt == job.attempt:
                current.slot = None

    # -- stages ------------------------------------------------------------------------------------

    def _command(self, job: Job) -> Command:
        settings = self.services.settings
        if job.stage == TRAIN:
            return train_command(settings, workspace_of(self.services, job), self._gpu(job))
        assert job.run_id is not None
        if job.stage == MERGE:
            with self.services.database.reading() as session:
                return merge_command(settings, job.run_id, published_as(session, job))
        step = self._imports(job)
        folder = self._store.checkpoint(job.run_id, step)
        return import_command(settings, folder, self._base(job.run_id), checkpoint_name(job, step))

    def _gpu(self, job: Job) -> str | None:
        return self.gpus[job.slot % len(self.gpus)] if self.gpus and job.slot is not None else None

    def _ended(self, job: Job, state: State) -> None:
        failure = failure_of(state, self.launcher.output(stage_name(job)))
        if failure is not None:
            self._failed(job, failure)
        elif job.stage == TRAIN:
            self._trained(job)
        elif job.stage == IMPORT:
            self._imported(job)
        else:
            self._go_on(job, DEPLOY)

    def _failed(self, job: Job, failure: Failure) -> None:
        local = self.services.settings.local
        with self.services.database.writing() as session:
            current = self._same(session, job)
            if current is None:
                return
            if failure.may_pass and current.failures < local.retries:
                current.failures, current.attempt = current.failures + 1, current.attempt + 1
                wait = local.retry_seconds * 2 ** (current.failures - 1)
                current.not_before = int(time.time() + wait)
                told = f"{failure.message}; it goes on from the newest checkpoint in {wait:.0f} s"
                states.tell(session, current, told, level="warn")
            elif current.stage == IMPORT:
                give_up_checkpoint(session, current, next_checkpoint(session, current) or 0, failure.message)
                _enter_next_import(session, current)
            else:
                current.slot = None
                states.fail(session, current, failure.code, failure.message, failure.param)

    def _trained(self, job: Job) -> None:
        """Write down all that a run has left, and choose what comes next."""
        try:
            run_id = workspace_of(self.services, job).run_id_file.read_text(encoding="utf-8").strip()
            self._base(run_id)
        except (OSError, HoneError) as error:
            self._failed(job, Failure("server_error", f"The run left no adapter: {error}"))
            return
        left = self._run(job).results()
        with suppress(_Elsewhere), self.services.storage.incoming() as incoming:
            incoming.write(left.table())
            with kept(self.services, incoming) as (digest, size), self.services.database.writing() as session:
                current = self._same(session, job)
                if current is None:
                    # Nobody is told of the bytes then, so they go.
                    raise _Elsewhere
                current.run_id, current.trained_tokens = run_id, left.tokens
                current.result_files = [add_results(session, current, digest, size).id]
                name = model_name(session, current, self.services.settings.organization)
                add_checkpoints(session, current, name, left.checkpoints)
                _enter(current, MERGE if read_extras(current.labels).deploy == "merged" else DEPLOY)

    def _imported(self, job: Job) -> None:
        step = self._imports(job)
        made = sorted(path.name for path in self._store.root.glob(f"adapters/{checkpoint_name(job, step)}-*"))
        with self.services.database.writing() as session:
            current = self._same(session, job)
            if current is not None:
                record_adapter(session, current, step, made[-1] if made else "")
                _enter_next_import(session, current)

    def _go_on(self, job: Job, stage: str) -> None:
        with self.services.database.writing() as session:
            current = self._same(session, job)
            if current is not None:
                _enter(current, stage)

    def _imports(self, job: Job) -> int:
        """The step of the checkpoint that the stage is about."""
        with self.services.database.reading() as session:
            return next_checkpoint(session, job) or 0

    # -- the end -----------------------------------------------------------------------------------

    def _deploy(self, job: Job) -> None:
        """The job is done when a server has its model, or when none can."""
        assert job.run_id is not None
        merged = read_extras(job.labels).deploy == "merged"
        with self.services.database.reading() as session:
            served_as = published_as(session, job) if merged else job.run_id
        base = self._base(job.run_id)
        found = presence(self.services.settings, base=base, served_as=served_as, merged=merged)
        begun = job.progress.get("deploying") or int(time.time())
        waits = found.state == "waiting" and time.time() < begun + _PATIENCE
        with self.services.database.writing() as session:
            current = self._same(session, job)
            if current is None:
                return
            if waits:
                if "deploying" not in current.progress:
                    current.progress = {**current.progress, "deploying": begun}
                    states.tell(session, current, found.message)
                return
            name = model_name(session, current, self.services.settings.organization)
            session.add(make_model(current, name, base, served_as, merged))
            current.fine_tuned_model = name
            states.tell(session, current, f"New fine-tuned model created: {name}")
            states.move(session, current, states.SUCCEEDED, "The job has successfully completed")
            _enter_next_import(session, current)
            if found.state != "served":
                states.tell(session, current, found.message, level="warn")

    # -- what is known of a run --------------------------------------------------------------------

    def _tell_news(self, job: Job) -> None:
        run, before = self._run(job), _read(job)
        points, now = run.news(before)
        if now == before:
            return
        with self.services.database.writing() as session:
            current = session.get_one(Job, job.number, with_for_update=True)
            if _read(current) != before:
                return
            current.progress = {**current.progress, **dataclasses.asdict(now)}
            # It came further, so what made it fail before was not in its way.
            current.failures = 0 if points else current.failures
            for each in points:
                states.tell(session, current, each.message, kind="metrics", data=each.data)
        job.progress = {**job.progress, **dataclasses.asdict(now)}

    @property
    def _store(self) -> Store:
        return Store(self.services.settings.store)

    def _run(self, job: Job) -> Run:
        return Run(self._store, run_name(job))

    def _base(self, run_id: str) -> str:
        """The base's name in the store, from the adapter's own manifest."""
        return open_artifact(self._store.adapter(run_id), "adapter").manifest.lineage["base"].id

    def _same(self, session: Session, job: Job) -> Job | None:
        """The job as it is now. None: somebody else has brought it elsewhere meanwhile."""
        current = session.get_one(Job, job.number, with_for_update=True)
        is_same = (current.status, current.stage, current.attempt) == (job.status, job.stage, job.attempt)
        return current if is_same else None


class _Elsewhere(Exception):
    """The job was cancelled or paused meanwhile."""


def _enter(job: Job, stage: str) -> None:
    job.stage, job.attempt, job.failures, job.not_before = stage, job.attempt + 1, 0, 0
    if stage == DEPLOY:
        job.slot = None


def _enter_next_import(session: Session, job: Job) -> None:
    """What is done for a job that has succeeded: its checkpoints become adapters, one after another."""
    session.flush()
    _enter(job, END if next_checkpoint(session, job) is None else IMPORT)


def _read(job: Job) -> Progress:
    known = {field.name for field in dataclasses.fields(Progress)}
    return Progress(**{name: value for name, value in job.progress.items() if name in known})
