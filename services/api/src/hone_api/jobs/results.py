"""What a run leaves: checkpoints and a model, each under a name of its own."""

import hashlib
import re
import time
from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from hone_api.database.tables import Checkpoint, File, Job, Model, Permission, Project
from hone_api.files.adding import add_file
from hone_api.ids import new_id
from hone_api.jobs import states
from hone_api.jobs.extras import is_merged
from hone_api.jobs.progress import Results
from hone_api.jobs.stages import DEPLOY
from hone_api.jobs.workspace import run_name


def published_as(session: Session, job: Job) -> str:
    """The name of a merged model: a new job with the same suffix makes a new version of it.

    The digest keeps projects apart, and what the operator has published: readable parts alone may be alike.
    """
    if not job.suffix:
        return job.id
    return _name_of(session.get_one(Project, job.project_id), job.suffix)


def _name_of(project: Project, suffix: str) -> str:
    digest = hashlib.sha256(f"{project.id}\n{suffix}".encode()).hexdigest()[:10]
    return "-".join(part for part in (_plain(project.name)[:20], _plain(suffix)[:30], digest) if part)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def published_models(session: Session) -> set[str]:
    """All merged ones that a server is to have: those of clients, and those of jobs that are about to end."""
    made = select(Model.served_as).where(Model.merged, Model.deleted_at.is_(None))
    ending = select(Job).where(Job.status == states.RUNNING, Job.stage == DEPLOY)
    jobs = (job for job in session.scalars(ending) if is_merged(job))
    return {*session.scalars(made), *(published_as(session, job) for job in jobs)}


def known_models(session: Session, names: Collection[str]) -> set[str]:
    """Those of these names that merged models of any job here have, had, or could have had."""
    if not names:
        return set()
    jobs = session.scalars(select(Job.id).where(Job.id.in_(names)))
    pairs = select(Project, Job.suffix).join(Job, Job.project_id == Project.id).distinct()
    by_suffix = {_name_of(project, suffix) for project, suffix in session.execute(pairs) if suffix}
    return {*jobs, *by_suffix.intersection(names)}


def model_name(session: Session, job: Job, organization: str) -> str:
    """As OpenAI names it; its checkpoints have it in their names before there is the model itself.

    So it is that of the first of them, should the operator call the organization otherwise now.
    """
    made = session.scalar(select(Checkpoint.model).where(Checkpoint.job_number == job.number).limit(1))
    if made is not None:
        return made.rpartition(":ckpt-step-")[0]
    return f"ft:{job.model}:{organization}:{job.suffix or ''}:{job.id[-8:]}"


def checkpoint_name(job: Job, step: int) -> str:
    """Of the adapter that is made of it."""
    return f"{run_name(job)}-step-{step}"


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


def list_checkpoints(session: Session, job: Job) -> list[Checkpoint]:
    """In the order of their steps."""
    mine = select(Checkpoint).where(Checkpoint.job_number == job.number)
    return [*session.scalars(mine.order_by(Checkpoint.step))]


def add_checkpoints(session: Session, job: Job, organization: str, left: Results) -> None:
    """What the run has saved, with events. What it removed is forgotten, if nothing was made of it before."""
    model, known = model_name(session, job, organization), list_checkpoints(session, job)
    for each in known:
        if is_gone(each, left.steps):
            forget_checkpoint(session, each)
    for step, metrics in left.checkpoints:
        if step not in {checkpoint.step for checkpoint in known}:
            session.add(
                Checkpoint(
                    id=new_id("ftckpt_"),
                    job_number=job.number,
                    created_at=int(time.time()),
                    step=step,
                    metrics=metrics,
                    model=f"{model}:ckpt-step-{step}",
                    served_as=None,
                )
            )
            states.tell(session, job, f"Checkpoint created at step {step}")
    session.flush()


def is_gone(checkpoint: Checkpoint, there: Collection[int]) -> bool:
    """Whether its run has removed it before anything was made of it."""
    return checkpoint.step not in there and checkpoint.served_as is None and not checkpoint.importing


def finish_checkpoints(session: Session, job: Job) -> None:
    """That of the last step is what the run has sealed, so it is served as that; if it is left, that is."""
    total = job.progress.get("pace", {}).get("total")
    for each in list_checkpoints(session, job):
        if each.step == total and each.served_as is None and not each.importing:
            each.served_as = job.run_id


def forget_checkpoint(session: Session, checkpoint: Checkpoint) -> None:
    """It is gone, and nobody can ask it."""
    session.execute(delete(Permission).where(Permission.model == checkpoint.model))
    session.delete(checkpoint)


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
