"""Who may ask a checkpoint (openai/types/fine_tuning/checkpoints)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from hone_api.database import tables

# PostgreSQL knows no NUL.
ProjectId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]


class CreatePermissions(BaseModel):
    """The body of `POST …/permissions` (permission_create_params.py)."""

    model_config = ConfigDict(extra="forbid")

    project_ids: Annotated[list[ProjectId], Field(min_length=1, max_length=100)]


class PermissionObject(BaseModel):
    """That of one project (permission_list_response.py)."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


def permission_object(row: tables.Permission) -> PermissionObject:
    return PermissionObject(id=row.id, created_at=row.created_at, project_id=row.project_id)
