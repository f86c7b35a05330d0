"""Files and uploads (openai/types/file_object.py, upload.py)."""

from typing import Literal

from pydantic import BaseModel

from hone_api.database import tables

Purpose = Literal["fine-tune", "fine-tune-results"]
FileStatus = Literal["uploaded", "processed", "error"]


class FileObject(BaseModel):
    """One file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None


class UploadObject(BaseModel):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None


class UploadPart(BaseModel):
    """One of them."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def file_object(row: tables.File) -> FileObject:
    return FileObject(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        purpose=row.purpose,
        status=row.status,
        status_details=row.status_details,
    )


def upload_object(row: tables.Upload, file: tables.File | None) -> UploadObject:
    return UploadObject(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        purpose=row.purpose,
        status=row.status,
        file=file_object(file) if file is not None else None,
    )


def upload_part(row: tables.Part) -> UploadPart:
    return UploadPart(id=row.id, created_at=row.created_at, upload_id=row.upload_id)
