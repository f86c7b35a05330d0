"""The states of a job, and which may follow which. All changes of a job's status go through `move`."""

import time

from sqlalchemy.orm import Session

from hone_api.database.tables import Event, Job
from hone_api.errors import invalid
from hone_api.ids import new_id

VALIDATING, QUEUED, RUNNING, PAUSED = "validating_files", "queued", "running", "paused"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"

FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
ACTIVE = frozenset({VALIDATING, QUEUED, RUNNING})
"""What the reconcile loop brings on."""

_NEXT = {
    VALIDATING: {QUEUED, PAUSED, FAILED, CANCELLED},
    QUEUED: {RUNNING, PAUSED, FAILED, CANCELLED},
    RUNNING: {SUCCEEDED, FAILED, PAUSED, CANCELLED},
    PAUSED: {QUEUED, CANCELLED},
}


def move(session: Session, job: Job, status: str, message: str, *, level: str = "info") -> None:
    """Bring a job into another state, and say so in its events.

    Raises ApiError when it cannot come there from where it is.
    """
    if status not in _NEXT.get(job.status, set()):
        raise invalid(f"Job {job.id} is {job.status}, and cannot become {status} from there")
    job.status = status
    if status in FINAL:
        job.finished_at = int(time.time())
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
