"""Models that a project can ask: those that it tuned, and the bases of the settings."""

import time
from typing import cast

from fastapi import APIRouter, Request
from sqlalchemy import delete, or_, select
from starlette.concurrency import run_in_threadpool

from hone_api.access import ForReading, ForTuning
from hone_api.database.tables import Model, Permission
from hone_api.errors import ApiError
from hone_api.jobs.permissions import owner_of
from hone_api.keys import Caller
from hone_api.services import Ours, Services
from hone_api.serving.names import Names, can_be_a_name, find_model, unknown_model
from hone_api.wire.models import ModelList, ModelObject
from hone_api.wire.page import Deleted

router = APIRouter(tags=["Models"])
_BEGINNING = 0
"""Nobody knows when a base was made."""


def names_of(request: Request) -> Names:
    return cast(Names, request.app.state.names)


@router.get("/models")
def list_models(ours: Ours, caller: ForReading) -> ModelList:
    """The project's own and those that are shared with it first, newest first."""
    shared = select(Permission.model).where(Permission.project_id == caller.project_id)
    may = or_(Model.project_id == caller.project_id, Model.id.in_(shared))
    with ours.database.reading() as session:
        wanted = select(Model).where(may, Model.deleted_at.is_(None))
        tuned = session.scalars(wanted.order_by(Model.created_at.desc(), Model.job_number.desc()))
        data = [_tuned(model, ours, caller) for model in tuned]
    return ModelList(data=[*data, *(_base(name, ours) for name in ours.settings.models)])


@router.get("/models/{model:path}")
def retrieve_model(model: str, ours: Ours, caller: ForReading) -> ModelObject:
    if can_be_a_name(model):
        with ours.database.reading() as session:
            found = find_model(session, owner_of(session, caller.project_id, model), model)
            if found is not None:
                return _tuned(found, ours, caller)
    if model in ours.settings.models:
        return _base(model, ours)
    raise unknown_model(model)


@router.delete("/models/{model:path}")
async def delete_model(model: str, request: Request, ours: Ours, caller: ForTuning) -> Deleted:
    """Takes the name away. The adapter or merged model stays in the store, which is the operator's."""
    if can_be_a_name(model) and await run_in_threadpool(_delete, ours, caller, model):
        names_of(request).forget(model)
        return Deleted(id=model, object="model")
    if model in ours.settings.models:
        raise ApiError(
            403,
            f"You have insufficient permissions for this operation: `{model}` is no fine-tuned model.",
            param="model",
            code="insufficient_permissions",
        )
    raise unknown_model(model)


def _delete(ours: Services, caller: Caller, model: str) -> bool:
    with ours.database.writing() as session:
        found = find_model(session, caller.project_id, model)
        if found is None:
            return False
        found.deleted_at = int(time.time())
        session.execute(delete(Permission).where(Permission.model == model))
        return True


def _tuned(model: Model, ours: Services, caller: Caller) -> ModelObject:
    # What another project is called is its own affair.
    owner = f"/{caller.project}" if model.project_id == caller.project_id else ""
    return ModelObject(id=model.id, created=model.created_at, owned_by=f"{ours.settings.organization}{owner}")


def _base(name: str, ours: Services) -> ModelObject:
    return ModelObject(id=name, created=_BEGINNING, owned_by=ours.settings.organization)
