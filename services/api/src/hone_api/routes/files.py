"""`/files` (openai/resources/files.py)."""

import time
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from hone_api.access import ForFiles
from hone_api.database.tables import File
from hone_api.errors import invalid
from hone_api.files.adding import add_file, check_room, kept
from hone_api.files.asking import EXPIRY_FIELDS, PURPOSE, check_name, check_purpose, read_expiry
from hone_api.files.finding import find_file, no_file, there
from hone_api.files.form import Expected, Form, read_form
from hone_api.files.removing import DELETED, remove_files
from hone_api.files.storage import Incoming
from hone_api.keys import Caller
from hone_api.services import Ours, Services
from hone_api.wire.files import FileObject, file_object
from hone_api.wire.page import Deleted, Page, page

router = APIRouter(prefix="/files")

_CHUNK = 2**18
_PURPOSES = (PURPOSE, "fine-tune-results")
# FastAPI reads no form here, so it cannot say of itself what is in it.
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}

Limit = Annotated[int, Query(ge=1, le=10_000)]


@router.post("", openapi_extra=_FORM)
async def create(request: Request, caller: ForFiles, ours: Ours) -> FileObject:
    """Upload a file. It is read afterwards: `status` becomes `processed`, or `error` with what is wrong."""
    expected = Expected("file", ours.settings.limits.file_bytes, EXPIRY_FIELDS | {"purpose"})
    with ours.storage.incoming() as incoming:
        form = await read_form(request, incoming, expected)
        made = await run_in_threadpool(_keep, ours, caller, incoming, form)
    ours.wake.set()
    return made


@router.get("")
def list_files(
    caller: ForFiles,
    ours: Ours,
    purpose: str | None = None,
    after: str | None = None,
    limit: Limit = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> Page:
    """The project's files, the newest first."""
    now = int(time.time())
    wanted = select(File).where(File.project_id == caller.project_id, there(now)).limit(limit + 1)
    wanted = wanted.order_by(File.number.desc() if order == "desc" else File.number)
    if purpose is not None:
        wanted = wanted.where(File.purpose == (purpose if purpose in _PURPOSES else ""))
    with ours.database.reading() as session:
        if after is not None:
            last = find_file(session, caller.project_id, after, now)
            if last is None:
                raise invalid(f"after: no such File object: {after[:128]}", "after")
            beyond = File.number < last.number if order == "desc" else File.number > last.number
            wanted = wanted.where(beyond)
        rows = session.scalars(wanted).all()
    return page([file_object(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.get("/{file_id}")
def retrieve(file_id: str, caller: ForFiles, ours: Ours) -> FileObject:
    return file_object(_find(ours, caller, file_id))


@router.delete("/{file_id}")
def delete(file_id: str, caller: ForFiles, ours: Ours) -> Deleted:
    """Remove a file. A job that was begun with it goes on; what it needs is removed when it has ended."""
    with ours.database.writing() as session:
        row = find_file(session, caller.project_id, file_id, int(time.time()))
        if row is None:
            raise no_file(file_id)
        row.expires_at = DELETED
    remove_files(ours, [file_id])
    # It may be being read, which the reconcile loop ends.
    ours.wake.set()
    return Deleted(id=file_id, object="file")


@router.get("/{file_id}/content", response_class=StreamingResponse, responses=_CONTENT)
def content(file_id: str, caller: ForFiles, ours: Ours) -> StreamingResponse:
    """The bytes that were uploaded, or that a job made."""
    row = _find(ours, caller, file_id)
    try:
        # Opened before the answer begins: it may be deleted meanwhile, and is sent to its end all the same.
        file = ours.storage.open(row.digest)
    except FileNotFoundError:
        raise no_file(file_id) from None
    headers = {
        "Content-Length": str(row.bytes),
        "Content-Disposition": f"attachment; {_named(row.filename)}",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_chunks(file), media_type="application/octet-stream", headers=headers)


def _keep(ours: Services, caller: Caller, incoming: Incoming, form: Form) -> FileObject:
    """What arrived becomes a file, unless something is wrong with what was said of it."""
    check_purpose(form.fields.get("purpose"))
    check_name(form.filename)
    seconds = read_expiry(form.fields)
    if not incoming.size:
        raise invalid("The file is empty", "file")
    now = int(time.time())
    with kept(ours, incoming) as (digest, size), ours.database.writing() as session:
        check_room(session, caller.project_id, size, ours.settings.limits.project_bytes)
        row = add_file(
            session,
            project_id=caller.project_id,
            digest=digest,
            size=size,
            filename=form.filename,
            purpose=PURPOSE,
            status="uploaded",
            now=now,
            expires_at=now + seconds if seconds else None,
        )
    return file_object(row)


def _find(ours: Services, caller: Caller, file_id: str) -> File:
    with ours.database.reading() as session:
        row = find_file(session, caller.project_id, file_id, int(time.time()))
    if row is None:
        raise no_file(file_id)
    return row


def _named(filename: str) -> str:
    """The name, so that it ends where it ends; what is not plain is written as RFC 6266 has it."""
    quoted = quote(filename, safe="")
    return f'filename="{filename}"' if quoted == filename else f"filename*=UTF-8''{quoted}"


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while data := file.read(_CHUNK):
            yield data
