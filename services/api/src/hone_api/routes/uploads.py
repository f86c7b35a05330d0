"""`/uploads` (openai/resources/uploads)."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from hone_api.access import ForFiles
from hone_api.files.asking import CompleteUpload, CreateUpload
from hone_api.files.form import Expected, read_form
from hone_api.files.turns import Turns
from hone_api.files.uploading import cancel_upload, check_open, complete_upload, create_upload, keep_part
from hone_api.services import Ours
from hone_api.wire.files import UploadObject, UploadPart

router = APIRouter(prefix="/uploads")

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post("")
def create(body: CreateUpload, caller: ForFiles, ours: Ours) -> UploadObject:
    """Announce a file that comes in parts, within an hour."""
    return create_upload(ours, caller.project_id, body)


@router.post("/{upload_id}/parts", openapi_extra=_FORM)
async def add_part(upload_id: str, request: Request, caller: ForFiles, ours: Ours) -> UploadPart:
    """Send a part. Parts may come at once, and in any order."""
    await run_in_threadpool(check_open, ours, caller.project_id, upload_id)
    with ours.storage.incoming() as incoming:
        await read_form(request, incoming, Expected("data", ours.settings.limits.part_bytes))
        return await run_in_threadpool(keep_part, ours, caller.project_id, upload_id, incoming)


@router.post("/{upload_id}/complete")
async def complete(
    upload_id: str, body: CompleteUpload, caller: ForFiles, ours: Ours, request: Request
) -> UploadObject:
    """Make a file of the parts, in the order in which they are named."""
    turns: Turns = request.app.state.turns
    async with turns.turn(caller.project_id, upload_id):
        return await run_in_threadpool(complete_upload, ours, caller.project_id, upload_id, body)


@router.post("/{upload_id}/cancel")
def cancel(upload_id: str, caller: ForFiles, ours: Ours) -> UploadObject:
    """Give up an upload; its parts are removed."""
    return cancel_upload(ours, caller.project_id, upload_id)
