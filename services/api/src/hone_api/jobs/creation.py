"""A new job: what is asked for is checked, and a request that is sent again is known."""

import hashlib
import json
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hone_api.database.tables import Job, Label, Project
from hone_api.errors import ApiError, invalid
from hone_api.files.finding import find_file
from hone_api.ids import new_id
from hone_api.jobs.extras import read_extras
from hone_api.jobs.hyperparameters import asked
from hone_api.jobs.states import OPEN, VALIDATING, tell
from hone_api.keys import Caller
from hone_api.settings import Settings
from hone_api.wire.jobs import CreateJob

RETRY_SECONDS = 900
"""For so long a request that says it is sent again is the first one. The SDK waits 600 s for an answer."""


@dataclass(frozen=True)
class Resent:
    """What a request says of being sent again."""

    key: str | None = None
    """`Idempotency-Key`. None: it has none."""
    again: bool = False
    """Whether the SDK counts it as a retry (`x-stainless-retry-count`)."""


def create_job(
    session: Session, settings: Settings, caller: Caller, request: CreateJob, resent: Resent
) -> Job:
    """Add a job, or find the one that the same request made before. Raises ApiError."""
    # Creations of a project come one after another, or two of one request would not see each other.
    session.execute(select(Project.id).where(Project.id == caller.project_id).with_for_update())
    if (made := _made_before(session, caller, request, resent)) is not None:
        return made
    _check(session, settings, caller, request)
    job = _job(caller, request, resent)
    session.add(job)
    session.flush()
    session.add_all(
        Label(job_number=job.number, key=key, value=value) for key, value in (request.metadata or {}).items()
    )
    tell(session, job, f"Created fine-tuning job: {job.id}")
    tell(session, job, f"Validating training file: {job.training_file}")
    return job


def _made_before(session: Session, caller: Caller, request: CreateJob, resent: Resent) -> Job | None:
    """Raises ApiError when the key came with another request before."""
    mine = select(Job).where(Job.project_id == caller.project_id).order_by(Job.number.desc()).limit(1)
    if resent.key is not None:
        found = session.scalar(mine.where(Job.idempotency_key == _owned(caller, resent.key)))
        if found is not None and found.request_digest != _digest(caller, request):
            raise ApiError(
                400, "This Idempotency-Key came with another request before", code="idempotency_key_in_use"
            )
        return found
    if not resent.again:
        return None
    since = int(time.time()) - RETRY_SECONDS
    return session.scalar(mine.where(Job.request_digest == _digest(caller, request), Job.created_at >= since))


def _check(session: Session, settings: Settings, caller: Caller, request: CreateJob) -> None:
    if request.model not in settings.models:
        names = ", ".join(sorted(settings.models)) or "none; the operator names them under `models`"
        raise invalid(
            f"Model {request.model} is not available for fine-tuning; there are: {names}",
            "model",
            "model_not_available",
        )
    if request.method is not None and request.method.type == "reinforcement":
        raise invalid("method reinforcement is not supported; use supervised or dpo", "method.type")
    if request.integrations and not settings.wandb:
        raise invalid(
            "integrations are not supported here; the operator allows them by the setting `wandb`",
            "integrations",
        )
    read_extras(request.metadata)
    _check_file(session, caller, request.training_file, "training_file")
    if request.validation_file is not None:
        _check_file(session, caller, request.validation_file, "validation_file")
    open_jobs = select(func.count()).where(Job.project_id == caller.project_id, Job.status.in_(OPEN))
    if (session.scalar(open_jobs) or 0) >= settings.limits.project_jobs:
        raise ApiError(
            429,
            f"The project has {settings.limits.project_jobs} jobs that have not ended, which is the most; "
            "wait for one, or cancel one: paused ones count too",
            kind="rate_limit_exceeded",
            code="rate_limit_exceeded",
            # A slot is free in minutes, not in the second that the SDK would wait.
            headers={"x-should-retry": "false"},
        )


def _check_file(session: Session, caller: Caller, file_id: str, param: str) -> None:
    file = find_file(session, caller.project_id, file_id, int(time.time()))
    if file is None:
        raise invalid(f"No such file: {file_id}", param, "file_not_found")
    if file.purpose != "fine-tune":
        raise invalid(
            f"File {file_id} has the purpose {file.purpose}; fine-tune is needed",
            param,
            "invalid_file_purpose",
        )


def _job(caller: Caller, request: CreateJob, resent: Resent) -> Job:
    return Job(
        id=new_id("ftjob-"),
        project_id=caller.project_id,
        created_at=int(time.time()),
        model=request.model,
        training_file=request.training_file,
        validation_file=request.validation_file,
        method={"type": request.method.type if request.method else "supervised"},
        resolved=asked(request).model_dump(),
        suffix=request.suffix,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
        labels=request.metadata or {},
        integrations=[each.model_dump(exclude_none=True) for each in request.integrations or []],
        status=VALIDATING,
        stage="train",
        attempt=0,
        slot=None,
        failures=0,
        not_before=0,
        progress={},
        run_id=None,
        fine_tuned_model=None,
        finished_at=None,
        trained_tokens=None,
        error=None,
        result_files=[],
        request_digest=_digest(caller, request),
        idempotency_key=_owned(caller, resent.key) if resent.key is not None else None,
    )


def _digest(caller: Caller, request: CreateJob) -> str:
    text = json.dumps([caller.key_id, request.model_dump()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _owned(caller: Caller, key: str) -> str:
    """Keys are the client's, so two clients may have the same."""
    return hashlib.sha256(f"{caller.key_id}\n{key}".encode()).hexdigest()
