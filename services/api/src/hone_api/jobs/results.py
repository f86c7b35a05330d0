"""What a run leaves: checkpoints and a model, each under a name of its own."""

import hashlib
import re
import time
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from hone_api.database.tables import Checkpoint, File, Job, Model, Project
from hone_api.files.adding import add_file
from hone_api.ids import new_id, short_id
from hone_api.jobs import states
from hone_api.jobs.workspace import run_name


def next_checkpoint(session: Session, job: Job) -> int | None:
    """The oldest one that has no adapter of its own yet."""
    mine = select(Checkpoint.step).where(Checkpoint.job_number == job.number, Checkpoint.served_as.is_(None))
    return session.scalar(mine.order_by(Checkpoint.step).limit(1))


def published_as(session: Session, job: Job) -> str:
    """The name of a merged model: a new job with the same suffix makes a new version of it.

    The digest keeps projects apart, and what the operator has published: readable parts alone may be alike.
    """
    if not job.suffix:
        return job.id
    project = session.get_one(Project, job.project_id).name
    digest = hashlib.sha256(f"{job.project_id}\n{job.suffix}".encode()).hexdigest()[:10]
    return "-".join(part for part in (_plain(project)[:20], _plain(job.suffix)[:30], digest) if part)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def model_name(session: Session, job: Job, organization: str) -> str:
    """As OpenAI names it. It is chosen once, with the first checkpoint that has it in its name."""
    made = session.scalar(select(Checkpoint.model).where(Checkpoint.job_number == job.number).limit(1))
    if made is not None:
        return made.rpartition(":ckpt-step-")[0]
    return f"ft:{job.model}:{organization}:{job.suffix or ''}:{short_id()}"


def checkpoint_name(job: Job, step: int) -> str:
    """Of the adapter that is made of it."""
    return f"{run_name(job)}-step-{step}"


def record_adapter(session: Session, job: Job, step: int, adapter: str) -> None:
    """By which a checkpoint can be asked; empty where none can be made."""
    mine = select(Checkpoint).where(Checkpoint.job_number == job.number, Checkpoint.step == step)
    session.scalars(mine).one().served_as = adapter
    session.flush()


def give_up_checkpoint(session: Session, job: Job, step: int, reason: str) -> None:
    """The model itself is there: a checkpoint that cannot be asked is no reason to lose it."""
    record_adapter(session, job, step, "")
    states.tell(session, job, f"The checkpoint of step {step} cannot be asked: {reason}", level="warn")


def add_results(session: Session, job: Job, digest: str, size: int) -> File:
    """The file of all steps, which belongs to the client as any other."""
    return add_file(
        session,
        project_id=job.project_id,
        digest=digest,
        size=size,
        filename="step_metrics.csv",
        purpose="fine-tune-results",
        status="processed",
        now=int(time.time()),
    )


def add_checkpoints(
    session: Session, job: Job, model: str, found: Sequence[tuple[int, dict[str, float]]]
) -> None:
    """With a name each; the last one is what the run has sealed, so it is served as that."""
    for step, metrics in found:
        session.add(
            Checkpoint(
                id=new_id("ftckpt_"),
                job_number=job.number,
                created_at=int(time.time()),
                step=step,
                metrics=metrics,
                model=f"{model}:ckpt-step-{step}",
                served_as=job.run_id if step == found[-1][0] else None,
            )
        )


def make_model(job: Job, name: str, base: str, served_as: str, merged: bool) -> Model:
    return Model(
        id=name,
        project_id=job.project_id,
        job_number=job.number,
        created_at=int(time.time()),
        base=base,
        served_as=served_as,
        merged=merged,
        deleted_at=None,
    )
