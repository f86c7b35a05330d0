"""Who else may ask a model or checkpoint: the projects with which its own has shared it."""

import time
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from hone_api.database.tables import Checkpoint, Job, Model, Permission, Project
from hone_api.errors import invalid
from hone_api.files.finding import is_id
from hone_api.ids import new_id


def owner_of(session: Session, project_id: str, name: str) -> str:
    """The project whose model this one asks by that name: another, if that has shared it, or itself."""
    shared = select(Permission.number).where(Permission.model == name, Permission.project_id == project_id)
    if session.scalar(shared) is None:
        return project_id
    return project_of(session, name) or project_id


def project_of(session: Session, name: str) -> str | None:
    """Of a model or checkpoint. None: there is none of that name, or it was deleted."""
    model = session.get(Model, name)
    if model is not None:
        return model.project_id if model.deleted_at is None else None
    job = select(Job.project_id).join(Checkpoint, Checkpoint.job_number == Job.number)
    return session.scalar(job.where(Checkpoint.model == name))


def share(session: Session, owner: str, name: str, project_ids: Sequence[str]) -> list[Permission]:
    """Let projects ask it. One that may already keeps its permission. Raises ApiError."""
    # Whoever shares it at the same moment would make the same permission.
    session.execute(select(Project.id).where(Project.id == owner).with_for_update())
    wanted = list(dict.fromkeys(project_ids))
    there = set(session.scalars(select(Project.id).where(Project.id.in_(filter(is_id, wanted)))))
    if missing := [each for each in wanted if each not in there]:
        raise invalid(
            f"No such project: {missing[0]}; `hone-api keys list` shows their ids",
            "project_ids",
            "project_not_found",
        )
    before = session.scalars(select(Permission).where(Permission.model == name))
    found = {each.project_id: each for each in before}
    for project_id in wanted:
        if project_id not in found:
            found[project_id] = Permission(
                id=new_id("cp_"), model=name, project_id=project_id, created_at=int(time.time())
            )
            session.add(found[project_id])
            # In the order in which they were asked for.
            session.flush()
    return [found[each] for each in wanted]
