"""Jobs that run: their stages one after another, each begun once, and what comes of them."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from hone_api.database.tables import Job
from hone_api.files.adding import kept
from hone_api.jobs import states
from hone_api.jobs.extras import is_merged
from hone_api.jobs.integrations import tracker_environment
from hone_api.jobs.pace import paced
from hone_api.jobs.progress import Progress, Run, read_run_id
from hone_api.jobs.queue import workspace_of
from hone_api.jobs.results import (
    add_checkpoints,
    add_results,
    finish_checkpoints,
    is_gone,
    list_checkpoints,
    make_model,
    model_name,
    published_as,
)
from hone_api.jobs.stages import (
    DEPLOY,
    END,
    MERGE,
    TRAIN,
    Failure,
    failure_of,
    merge_command,
    stage_name,
    train_command,
)
from hone_api.jobs.steps import base_of, enter, has_store, same, try_again
from hone_api.jobs.telling import for_clients
from hone_api.jobs.workspace import run_name
from hone_api.launcher.stages import Command, Launcher, State
from hone_api.services import Services
from hone_api.serving.merged import START_SECONDS, MergedServers
from hone_api.serving.presence import Listings, Presence
from hone_contract.errors import HoneError
from hone_contract.store import Store

_PATIENCE = 600
"""Seconds that a server may take to list a new model, if it is not only made for it."""


@dataclass(frozen=True)
class Running:
    """Brings one job on."""

    services: Services
    launcher: Launcher
    gpus: Sequence[str]
    """What CUDA_VISIBLE_DEVICES is for each slot; empty without any."""
    listings: Listings
    servers: MergedServers | None

    def advance(self, job: Job) -> None:
        """One look at a running job: begin its stage, tell its news, go on when the stage has ended."""
        if job.stage == DEPLOY:
            self._deploy(job)
            return
        if time.time() < job.not_before:
            return
        name = stage_name(job)
        state = self.launcher.state(name)
        self._tell_what_it_waits_for(job, state)
        if state.state == "absent":
            self.launcher.begin(name, self._command(job))
            return
        # All that it wrote before it ended is told before the job goes on.
        if (job.stage != TRAIN or self._tell(job)) and state.state == "ended":
            self._ended(job, state)

    def settle(self, job: Job) -> None:
        """Stop what runs of a job that was cancelled or paused; its slot is free when that has ended."""
        name = stage_name(job)
        if self.launcher.state(name).state != "ended":
            # Also of one that seems never to have begun: its keeper may be on its way.
            self.launcher.stop(name)
            if self.launcher.state(name).state == "running":
                return
        if job.stage == TRAIN and not self._tell(job):
            return
        with self.services.database.writing() as session:
            current = session.get_one(Job, job.number, with_for_update=True)
            if current.status != states.RUNNING and current.attempt == job.attempt:
                current.slot = None

    # -- stages ------------------------------------------------------------------------------------

    def _command(self, job: Job) -> Command:
        settings = self.services.settings
        if job.stage == TRAIN:
            workspace = workspace_of(self.services, job)
            return train_command(settings, workspace, self._gpu(job), tracker_environment(job, settings))
        assert job.run_id is not None and job.stage == MERGE
        with self.services.database.reading() as session:
            return merge_command(settings, job.run_id, published_as(session, job))

    def _gpu(self, job: Job) -> str | None:
        return self.gpus[job.slot % len(self.gpus)] if self.gpus and job.slot is not None else None

    def _ended(self, job: Job, state: State) -> None:
        failure = failure_of(state, self.launcher.output(stage_name(job)), job.stage)
        if failure is not None:
            self._failed(job, failure)
        elif job.stage == TRAIN:
            self._trained(job)
        else:
            self._go_on(job, DEPLOY)

    def _failed(self, job: Job, failure: Failure) -> None:
        settings = self.services.settings
        told = for_clients(failure.message, settings, job)
        with self.services.database.writing() as session:
            current = same(session, job)
            again = f"{told}; it goes on from the newest checkpoint"
            if current is None or try_again(session, current, failure, again, settings.local):
                return
            current.slot = None
            states.fail(session, current, failure.code, told, failure.param)
        # The stage is forgotten soon, and what the client is told lacks the paths.
        said = f"{job.id}: its {job.stage} has failed: {failure.message}"
        seen = {"job": job.id, "stage": job.stage, "output": failure.output}
        self.services.reporter.tell("job_failed", said, level="error", **seen)

    def _trained(self, job: Job) -> None:
        """Write down all that a run has left, and choose what comes next."""
        if not has_store(self._store):
            return
        try:
            run_id = read_run_id(workspace_of(self.services, job).run_id_file, run_name(job))
            base_of(self._store, run_id)
        except (FileNotFoundError, HoneError) as error:
            self._failed(job, Failure("server_error", f"The run left no adapter: {error}"))
            return
        left = self._run(job).results()
        with suppress(_Elsewhere), self.services.storage.incoming() as incoming:
            incoming.write(left.table())
            with kept(self.services, incoming) as (digest, size), self.services.database.writing() as session:
                current = same(session, job)
                if current is None:
                    # Nobody is told of the bytes then, so they go.
                    raise _Elsewhere
                current.run_id, current.trained_tokens = run_id, left.tokens
                current.result_files = [add_results(session, current, digest, size).id]
                add_checkpoints(session, current, self.services.settings.organization, left)
                finish_checkpoints(session, current)
                enter(current, MERGE if is_merged(current) else DEPLOY)

    def _go_on(self, job: Job, stage: str) -> None:
        with self.services.database.writing() as session:
            current = same(session, job)
            if current is not None:
                enter(current, stage)

    # -- the end -----------------------------------------------------------------------------------

    def _deploy(self, job: Job) -> None:
        """The job is done when a server has its model, or when none can."""
        assert job.run_id is not None
        if not has_store(self._store):
            return
        merged = is_merged(job)
        with self.services.database.reading() as session:
            served_as = published_as(session, job) if merged else job.run_id
        try:
            base = base_of(self._store, job.run_id)
        except HoneError as error:
            self._failed(job, Failure("server_error", f"The model is not in the store any more: {error}"))
            return
        found, patience = self._presence(job, base, served_as, merged)
        begun = job.progress.get("deploying") or int(time.time())
        waits = found.state == "waiting" and time.time() < begun + patience
        with self.services.database.writing() as session:
            current = same(session, job)
            if current is None:
                return
            if waits:
                if "deploying" not in current.progress:
                    current.progress = {**current.progress, "deploying": begun}
                    states.tell(session, current, found.message)
                    self.services.reporter.tell("model_awaited", f"{job.id}: {found.seen}", job=job.id)
                return
            name = model_name(session, current, self.services.settings.organization)
            session.add(make_model(current, name, base, served_as, merged))
            current.fine_tuned_model = name
            states.tell(session, current, f"New fine-tuned model created: {name}")
            states.move(session, current, states.SUCCEEDED, "The job has successfully completed")
            enter(current, END)
            if found.state != "served":
                states.tell(session, current, found.message, level="warn")

    def _presence(self, job: Job, base: str, served_as: str, merged: bool) -> tuple[Presence, int]:
        """And for how many seconds it is waited for."""
        version = job.run_id if merged else None
        found = self.listings.presence(base=base, served_as=served_as, merged=merged, version=version)
        if not merged or self.servers is None or found.state == "served":
            return found, _PATIENCE
        note = self.servers.waits_for(served_as)
        if note is None:
            return found, _PATIENCE
        self._tell_what_it_waits_for(job, State("running", note=note))
        told = "The server that is made for it does not serve it yet."
        if "deploying" in job.progress:
            # The first time, the reason was told just now.
            told = f"{told} {note or found.message}"
        return Presence("waiting", told, found.seen or told), START_SECONDS

    # -- what is known of a run --------------------------------------------------------------------

    def _tell(self, job: Job) -> bool:
        """Whether all is told that there was to read: first of the steps, then of the checkpoints."""
        is_all = self._tell_news(job)
        if is_all:
            self._tell_checkpoints(job)
        return is_all

    def _tell_checkpoints(self, job: Job) -> None:
        run = self._run(job)
        there = run.saved()
        if there is None:
            return
        with self.services.database.reading() as session:
            known = list_checkpoints(session, job)
        if not set(there) - {each.step for each in known} and not any(is_gone(each, there) for each in known):
            return
        left = run.results(there)
        with self.services.database.writing() as session:
            current = session.get_one(Job, job.number, with_for_update=True)
            add_checkpoints(session, current, self.services.settings.organization, left)

    def _tell_news(self, job: Job) -> bool:
        before = _read(job)
        news = self._run(job).news(before)
        if news.more:
            # It is told in several transactions, between which others have their turn.
            self.services.wake.set()
        if news.progress == before:
            return not news.more
        known = dataclasses.asdict(news.progress)
        if news.points and news.status:
            known["pace"] = paced(job.progress.get("pace"), job.attempt, news.status)
        with self.services.database.writing() as session:
            current = session.get_one(Job, job.number, with_for_update=True)
            if _read(current) != before:
                return False
            current.progress = {**current.progress, **known}
            # It came further, so what made it fail before was not in its way.
            current.failures = 0 if news.points else current.failures
            for each in news.points:
                states.tell(session, current, each.message, kind="metrics", data=each.data)
        job.progress = {**job.progress, **known}
        return not news.more

    def _tell_what_it_waits_for(self, job: Job, state: State) -> None:
        """Once for each thing, however often what is said of it changes."""
        about = state.waits_for
        if about == job.progress.get("waits_for", ""):
            return
        with self.services.database.writing() as session:
            current = same(session, job)
            if current is None:
                return
            current.progress = {**current.progress, "waits_for": about}
            if about:
                told = for_clients(state.note, self.services.settings, job)
                states.tell(session, current, told, level="warn")
        job.progress = {**job.progress, "waits_for": about}

    @property
    def _store(self) -> Store:
        return Store(self.services.settings.store)

    def _run(self, job: Job) -> Run:
        return Run(self._store, run_name(job))


class _Elsewhere(Exception):
    """The job was cancelled or paused meanwhile."""


def _read(job: Job) -> Progress:
    known = {field.name for field in dataclasses.fields(Progress)}
    return Progress(**{name: value for name, value in job.progress.items() if name in known})
