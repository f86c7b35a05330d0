"""Lists, a page at a time (openai/pagination.py: SyncCursorPage)."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel


class Page(BaseModel):
    """`after` the last one's id comes the next page."""

    object: Literal["list"] = "list"
    data: Sequence[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(data: Sequence[Any], *, has_more: bool) -> Page:
    ids = [each.id for each in data]
    return Page(
        data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
    )


class Deleted(BaseModel):
    """What is told of a thing that is gone."""

    id: str
    object: Literal["file", "model", "checkpoint.permission"]
    deleted: Literal[True] = True
