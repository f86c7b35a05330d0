"""`/fine_tuning/jobs` (openai/resources/fine_tuning/jobs)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from sqlalchemy import Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from hone_api.access import ForTuning
from hone_api.database.tables import Checkpoint, Event, Job, Label
from hone_api.errors import invalid, missing
from hone_api.files.finding import is_id
from hone_api.jobs import states
from hone_api.jobs.creation import Resent, create_job
from hone_api.keys import Caller
from hone_api.services import Ours
from hone_api.wire.jobs import (
    MOST_LABELS,
    CreateJob,
    JobObject,
    checkpoint_object,
    event_object,
    job_object,
)
from hone_api.wire.page import Page, page

router = APIRouter(prefix="/fine_tuning/jobs")

Limit = Annotated[int, Query(ge=1, le=100)]
Again = Annotated[int, Header(alias="x-stainless-retry-count")]
IdempotencyKey = Annotated[str | None, Header(alias="idempotency-key", max_length=255)]


@router.post("")
def create(
    body: CreateJob, caller: ForTuning, ours: Ours, key: IdempotencyKey = None, again: Again = 0
) -> JobObject:
    """Begin a job; its files are looked at afterwards, and what is wrong with them is told in its events."""
    with ours.database.writing() as session:
        job = create_job(session, ours.settings, caller, body, Resent(key, again > 0))
        made = _told(ours, job)
    ours.wake.set()
    return made


@router.get("")
def list_jobs(
    request: Request, caller: ForTuning, ours: Ours, after: str | None = None, limit: Limit = 20
) -> Page:
    """The newest first; `metadata[key]=value` for those that have it, `metadata=null` for those without."""
    wanted, number = _labelled(request, select(Job).where(Job.project_id == caller.project_id))
    with ours.database.reading() as session:
        if after is not None:
            wanted = wanted.where(number < _find(session, caller, after).number)
        rows, more = _newest(session, wanted.order_by(number.desc()), limit)
        return page([_told(ours, row) for row in rows], has_more=more)


@router.get("/{job_id}")
def retrieve(job_id: str, caller: ForTuning, ours: Ours) -> JobObject:
    with ours.database.reading() as session:
        return _told(ours, _find(session, caller, job_id))


@router.post("/{job_id}/cancel")
def cancel(job_id: str, caller: ForTuning, ours: Ours) -> JobObject:
    """End a job for good; what it has so far stays in the store."""
    return _changed(job_id, caller, ours, states.cancel)


@router.post("/{job_id}/pause")
def pause(job_id: str, caller: ForTuning, ours: Ours) -> JobObject:
    """Stop a job at a checkpoint; its GPU is free for others."""
    return _changed(job_id, caller, ours, states.pause)


@router.post("/{job_id}/resume")
def resume(job_id: str, caller: ForTuning, ours: Ours) -> JobObject:
    """Let a paused job go on from its newest checkpoint, when there is a slot for it."""
    return _changed(job_id, caller, ours, states.resume)


@router.get("/{job_id}/events")
def list_events(
    job_id: str, caller: ForTuning, ours: Ours, after: str | None = None, limit: Limit = 20
) -> Page:
    """The newest first."""
    with ours.database.reading() as session:
        job = _find(session, caller, job_id)
        rows, more = _after(session, Event, Event.number, job, after, limit)
        return page([event_object(row) for row in rows], has_more=more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, caller: ForTuning, ours: Ours, after: str | None = None, limit: Limit = 10
) -> Page:
    """The newest first."""
    with ours.database.reading() as session:
        job = _find(session, caller, job_id)
        rows, more = _after(session, Checkpoint, Checkpoint.step, job, after, limit)
        return page([checkpoint_object(row, job.id) for row in rows], has_more=more)


def _changed(job_id: str, caller: Caller, ours: Ours, change: Callable[[Session, Job], None]) -> JobObject:
    """What the client asks for is written down; the loop brings it about."""
    with ours.database.writing() as session:
        job = _find(session, caller, job_id, lock=True)
        change(session, job)
        told = _told(ours, job)
    ours.wake.set()
    return told


def _find(session: Session, caller: Caller, job_id: str, *, lock: bool = False) -> Job:
    wanted = select(Job).where(Job.id == job_id, Job.project_id == caller.project_id)
    job = session.scalar(wanted.with_for_update() if lock else wanted) if is_id(job_id) else None
    if job is None:
        raise missing("fine-tuning job", job_id, "fine_tuning_job_id", "fine_tune_not_found")
    return job


def _after(
    session: Session,
    table: type[Event] | type[Checkpoint],
    order: InstrumentedAttribute[int],
    job: Job,
    after: str | None,
    limit: int,
) -> tuple[Sequence[Any], bool]:
    """A page of what belongs to a job, which begins behind the one with this id."""
    mine = table.job_number == job.number
    wanted = select(table).where(mine)
    if after is not None:
        last = session.scalar(select(order).where(mine, table.id == after)) if is_id(after) else None
        if last is None:
            raise missing(table.__name__.lower(), after, "after")
        wanted = wanted.where(order < last)
    return _newest(session, wanted.order_by(order.desc()), limit)


def _newest(session: Session, wanted: Select[Any], limit: int) -> tuple[Sequence[Any], bool]:
    """So many rows, and whether there are more."""
    rows = session.scalars(wanted.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def _labelled(request: Request, wanted: Select[Any]) -> tuple[Select[Any], InstrumentedAttribute[int]]:
    """What the query says of metadata; and the jobs' number, of which SQLite finds the newest at once.

    That is the labels' own where there are any: by their index it needs neither to collect nor to sort.
    """
    number = Job.number
    for key, value in _pairs(request):
        if key is None:
            wanted = wanted.where(Job.number.not_in(select(Label.job_number)))
            continue
        label = aliased(Label)
        wanted = wanted.join(label, label.job_number == Job.number)
        wanted, number = wanted.where(label.key == key, label.value == value), label.job_number
    return wanted, number


def _pairs(request: Request) -> list[tuple[str | None, str]]:
    """Keys and values; no key: those without metadata. Raises ApiError."""
    pairs: list[tuple[str | None, str]] = []
    for name, value in request.query_params.multi_items():
        if "\0" in name + value:
            raise invalid("A query with a NUL in it finds nothing", name.partition("[")[0])
        if name == "metadata" and value == "null":
            pairs.append((None, value))
        elif name.startswith("metadata[") and name.endswith("]"):
            pairs.append((name.removeprefix("metadata[").removesuffix("]"), value))
        elif name == "metadata":
            raise invalid("metadata is null, or metadata[key]=value", "metadata")
    if len(pairs) > MOST_LABELS:
        raise invalid(f"A job has at most {MOST_LABELS} pairs of metadata", "metadata")
    return pairs


def _told(ours: Ours, job: Job) -> JobObject:
    return job_object(job, ours.settings.organization)
