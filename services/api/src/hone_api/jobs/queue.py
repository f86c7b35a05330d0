"""Jobs that do not run yet: their files are looked at, then they wait for a slot."""

import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from hone_api.database.tables import File, Job
from hone_api.jobs import states
from hone_api.jobs.hyperparameters import resolve
from hone_api.jobs.sharing import Sharing
from hone_api.jobs.stages import DEPLOY, Failure
from hone_api.jobs.workspace import Workspace
from hone_api.services import Services

_PARAMS = ("training_file", "validation_file")


def workspace_of(services: Services, job: Job) -> Workspace:
    return Workspace(services.settings.data.resolve() / "jobs" / job.id)


def validate(services: Services, job: Job) -> None:
    """A job whose files are good gets its run file and waits in the queue; one whose are not, fails."""
    files = _files(services, job)
    failure = _what_is_wrong(services, job, files)
    if failure is None:
        if any(file is not None and file.status != "processed" for file in files):
            return
        _make_ready(services, job, files)
    with services.database.writing() as session:
        current = session.get_one(Job, job.number, with_for_update=True)
        if current.status != states.VALIDATING:
            return
        if failure is not None:
            states.fail(session, current, failure.code, failure.message, failure.param)
            return
        current.resolved = job.resolved
        states.move(session, current, states.QUEUED, "Files validated, moving job to queued state")


def start(services: Services, job: Job, slots: int, sharing: Sharing) -> None:
    """Let a job run that waits, if a slot and its GPU are free; one whose model is made needs neither."""
    if job.slot is not None or time.time() < job.not_before:
        return
    if not workspace_of(services, job).spec.exists():
        # It was paused before its files were looked at.
        _look_again(services, job)
        return
    if job.stage != DEPLOY:
        with services.database.reading() as session:
            if _free_slot(session, services, job, slots) is None:
                return
        if not sharing.lets_train(job):
            return
    with services.database.writing() as session:
        current = session.get_one(Job, job.number, with_for_update=True)
        free = None if current.stage == DEPLOY else _free_slot(session, services, current, slots)
        if current.status != states.QUEUED or current.slot is not None:
            return
        if free is None and current.stage != DEPLOY:
            return
        current.slot, current.attempt, current.failures = free, current.attempt + 1, 0
        # Its model is waited for from now on.
        current.progress = {name: value for name, value in current.progress.items() if name != "deploying"}
        told = "Fine-tuning job started" if current.attempt == 1 else "Fine-tuning job goes on"
        states.move(session, current, states.RUNNING, told)


def _look_again(services: Services, job: Job) -> None:
    with services.database.writing() as session:
        current = session.get_one(Job, job.number, with_for_update=True)
        if current.status == states.QUEUED:
            told = f"Validating training file: {current.training_file}"
            states.move(session, current, states.VALIDATING, told)


def _files(services: Services, job: Job) -> list[File | None]:
    """Of training and validation, deleted ones too, as long as a job needs them. None: it is gone."""
    wanted = [name for name in (job.training_file, job.validation_file) if name is not None]
    with services.database.reading() as session:
        return [session.scalar(select(File).where(File.id == name)) for name in wanted]


def _what_is_wrong(services: Services, job: Job, files: list[File | None]) -> Failure | None:
    if job.model not in services.settings.models:
        told = (
            f"Model {job.model} is not available for fine-tuning any more; the operator can name it again, "
            "under `models` in the api's settings"
        )
        return Failure("model_not_available", told, "model")
    for param, file in zip(_PARAMS, files, strict=False):
        named = param.replace("_", " ")
        if file is None:
            return Failure("file_not_found", f"The {named} was deleted before the job began", param)
        if file.status == "error":
            told = f"The job failed due to an invalid {named}. {file.status_details}"
            return Failure(f"invalid_{param}", told, param)
    return None


def _make_ready(services: Services, job: Job, files: list[File | None]) -> None:
    """Fills the job's folder, and `job.resolved`, which whoever calls writes down."""
    there = [services.storage.path(file.digest) for file in files if file is not None]
    records = files[0].records if files[0] is not None else None
    tunable = services.settings.models[job.model]
    job.resolved = resolve(job.resolved, records or 1, tunable)
    workspace = workspace_of(services, job)
    workspace.take(there[0], there[1] if len(there) > 1 else None)
    workspace.write_spec(job, tunable)


def _free_slot(session: Session, services: Services, job: Job, slots: int) -> int | None:
    """None: all are taken, or as many as the job's project may have."""
    running = session.execute(select(Job.slot, Job.project_id).where(Job.slot.is_not(None))).all()
    most = services.settings.limits.project_runs
    if most is not None and sum(each.project_id == job.project_id for each in running) >= most:
        return None
    taken = {each.slot for each in running}
    return next((slot for slot in range(slots) if slot not in taken), None)
