"""`/fine_tuning/checkpoints/…/permissions`: models that other projects may ask too
(openai/resources/fine_tuning/checkpoints/permissions.py).
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from hone_api.access import Allowed
from hone_api.database.tables import Permission
from hone_api.errors import missing
from hone_api.files.finding import is_id
from hone_api.jobs.permissions import project_of, share
from hone_api.keys import Caller
from hone_api.routes.models import names_of
from hone_api.services import Ours, Services
from hone_api.serving.names import can_be_a_name, unknown_model
from hone_api.wire.page import Deleted, Page, page
from hone_api.wire.permissions import CreatePermissions, ProjectId, permission_object

router = APIRouter(prefix="/fine_tuning/checkpoints")

ForAdmin = Annotated[Caller, Depends(Allowed("admin"))]
Order = Literal["ascending", "descending"]


@router.post("/{model:path}/permissions")
def create_permissions(model: str, body: CreatePermissions, caller: ForAdmin, ours: Ours) -> Page:
    """Let other projects ask a model of this one; who may already, keeps the permission that there is."""
    with ours.database.writing() as session:
        _check_owner(session, caller, model)
        rows = share(session, caller.project_id, model, body.project_ids)
        return page([permission_object(row) for row in rows], has_more=False)


@router.get("/{model:path}/permissions")
def list_permissions(
    model: str,
    caller: ForAdmin,
    ours: Ours,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Order = "descending",
    project_id: Annotated[ProjectId | None, Query()] = None,
) -> Page:
    """By the time when they were made."""
    wanted = select(Permission).where(Permission.model == model)
    if project_id is not None:
        wanted = wanted.where(Permission.project_id == project_id)
    number = Permission.number
    with ours.database.reading() as session:
        _check_owner(session, caller, model)
        if after is not None:
            last = _find(session, model, after, "after").number
            wanted = wanted.where(number > last if order == "ascending" else number < last)
        wanted = wanted.order_by(number if order == "ascending" else number.desc())
        rows = session.scalars(wanted.limit(limit + 1)).all()
        return page([permission_object(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.delete("/{model:path}/permissions/{permission_id}")
async def delete_permission(
    model: str, permission_id: str, request: Request, caller: ForAdmin, ours: Ours
) -> Deleted:
    """The project cannot ask it any more."""
    await run_in_threadpool(_delete, ours, caller, model, permission_id)
    names_of(request).forget(model)
    return Deleted(id=permission_id, object="checkpoint.permission")


def _delete(ours: Services, caller: Caller, model: str, permission_id: str) -> None:
    with ours.database.writing() as session:
        _check_owner(session, caller, model)
        session.delete(_find(session, model, permission_id, "permission_id"))


def _check_owner(session: Session, caller: Caller, model: str) -> None:
    """Raises ApiError: a model that was shared with a project is not that project's to share."""
    if not can_be_a_name(model) or project_of(session, model) != caller.project_id:
        raise unknown_model(model)


def _find(session: Session, model: str, permission_id: str, param: str) -> Permission:
    wanted = select(Permission).where(Permission.id == permission_id, Permission.model == model)
    found = session.scalar(wanted) if is_id(permission_id) else None
    if found is None:
        raise missing("permission", permission_id, param)
    return found
