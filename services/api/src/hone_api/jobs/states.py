"""The states of a job, and which may follow which. All changes of a job's status go through `move`."""

import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from hone_api.database.tables import Event, Job
from hone_api.errors import invalid
from hone_api.ids import new_id
from hone_api.webhooks.outbox import announce

VALIDATING, QUEUED, RUNNING, PAUSED = "validating_files", "queued", "running", "paused"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"

FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
ACTIVE = frozenset({VALIDATING, QUEUED, RUNNING})
"""What the reconcile loop brings on."""
OPEN = ACTIVE | {PAUSED}
"""What has not ended."""

_NEXT = {
    VALIDATING: {QUEUED, PAUSED, FAILED, CANCELLED},
    QUEUED: {VALIDATING, RUNNING, PAUSED, FAILED, CANCELLED},
    RUNNING: {SUCCEEDED, FAILED, PAUSED, CANCELLED},
    PAUSED: {QUEUED, CANCELLED},
}
_RESUMED = "The job goes on"


def cancel(session: Session, job: Job) -> None:
    """End a job for good. To ask twice is to ask once. Raises ApiError for one that has ended otherwise."""
    if job.status != CANCELLED:
        move(session, job, CANCELLED, "The job was cancelled by its owner")


def pause(session: Session, job: Job) -> None:
    """Stop a job for a while. To ask twice is to ask once. Raises ApiError for one that has ended."""
    if job.status != PAUSED:
        move(session, job, PAUSED, "The job was paused; it stops at a checkpoint")


def resume(session: Session, job: Job) -> None:
    """Let a paused job wait for its turn again; one that was resumed before and is at work stays as it is.

    An SDK sends a request again that got no answer, and the loop may have brought the job on meanwhile.
    Raises ApiError for a job that was never paused, and for one that has ended.
    """
    if job.status == PAUSED:
        move(session, job, QUEUED, _RESUMED)
        return
    before = select(Event.number).where(Event.job_number == job.number, Event.message == _RESUMED)
    if job.status not in ACTIVE or session.scalar(before.limit(1)) is None:
        raise invalid(f"Job {job.id} is {job.status}; only a job that is paused can be resumed")


def move(session: Session, job: Job, status: str, message: str, *, level: str = "info") -> None:
    """Bring a job into another state, and say so in its events.

    Raises ApiError when it cannot come there from where it is.
    """
    if status not in _NEXT.get(job.status, set()):
        raise invalid(f"Job {job.id} is {job.status}, and cannot become {status} from there")
    job.status = status
    if status in FINAL:
        job.finished_at = int(time.time())
        announce(session, job)
    tell(session, job, message, level=level)


def fail(session: Session, job: Job, code: str, message: str, param: str | None = None) -> None:
    """A job's end, for a reason that trying again does not change."""
    job.error = {"code": code, "message": message, "param": param}
    move(session, job, FAILED, message, level="error")


def tell(
    session: Session,
    job: Job,
    message: str,
    *,
    level: str = "info",
    kind: str = "message",
    data: dict[str, object] | None = None,
) -> None:
    """Add an event."""
    event = Event(
        id=new_id("ftevent-"),
        job_number=job.number,
        created_at=int(time.time()),
        level=level,
        message=message,
        type=kind,
        data=data or {},
    )
    session.add(event)
