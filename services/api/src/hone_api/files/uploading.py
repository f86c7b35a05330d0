"""Uploads: files that come in parts. Each step is short in the database; the bytes move outside of it."""

import hashlib
import time
from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from hone_api.database.tables import File, Part, Upload
from hone_api.errors import ApiError, invalid
from hone_api.files.adding import add_file, check_room, kept
from hone_api.files.asking import PURPOSE, CompleteUpload, CreateUpload, check_name, check_purpose
from hone_api.files.finding import find_upload, there
from hone_api.files.removing import remove_parts
from hone_api.files.storage import Incoming
from hone_api.ids import new_id
from hone_api.services import Services
from hone_api.wire.files import UploadObject, UploadPart, upload_object, upload_part

_SECONDS = 3600
"""For so long parts are taken, as OpenAI has it."""
_MOST_PARTS = 10_000
_MOST_PENDING = 100
_CHUNK = 2**20


def create_upload(ours: Services, project_id: str, request: CreateUpload) -> UploadObject:
    """Raises ApiError for what could not become a file."""
    check_purpose(request.purpose)
    check_name(request.filename)
    if request.bytes > ours.settings.limits.upload_bytes:
        raise invalid(f"An upload has at most {ours.settings.limits.upload_bytes} bytes", "bytes")
    now = int(time.time())
    upload = Upload(
        id=new_id("upload_"),
        project_id=project_id,
        bytes=request.bytes,
        filename=request.filename,
        mime_type=request.mime_type,
        purpose=request.purpose,
        status="pending",
        created_at=now,
        expires_at=now + _SECONDS,
        file_seconds=request.expires_after.seconds if request.expires_after else None,
        file_id=None,
    )
    with ours.database.writing() as session:
        check_room(session, project_id, request.bytes, ours.settings.limits.project_bytes)
        _check_pending(session, project_id)
        session.add(upload)
    return upload_object(upload, None)


def check_open(ours: Services, project_id: str, upload_id: str) -> None:
    """Raises ApiError for an upload that takes no more parts."""
    with ours.database.reading() as session:
        _check_status(find_upload(session, project_id, upload_id))


def keep_part(ours: Services, project_id: str, upload_id: str, incoming: Incoming) -> UploadPart:
    """Raises ApiError when there is no room for it, or it came too late."""
    if not incoming.size:
        raise invalid("The part is empty", "data")
    part = Part(id=new_id("part_"), upload_id=upload_id, bytes=incoming.size, created_at=int(time.time()))
    added = False
    try:
        incoming.keep_as_part(part.id)
        with ours.database.writing() as session:
            _check_status(find_upload(session, project_id, upload_id, to_change=True))
            if _counted(session, upload_id) >= _MOST_PARTS:
                raise invalid(f"An upload has at most {_MOST_PARTS} parts", "data")
            check_room(session, project_id, incoming.size, ours.settings.limits.project_bytes)
            session.add(part)
        added = True
    finally:
        if not added:
            ours.storage.remove_part(part.id)
    return upload_part(part)


def complete_upload(ours: Services, project_id: str, upload_id: str, request: CompleteUpload) -> UploadObject:
    """The parts become a file. Whoever asks again, such as an SDK that got no answer, gets the same one."""
    with ours.database.reading() as session:
        every = _parts(session, find_upload(session, project_id, upload_id))
        # Looked at after its parts, which go when it ends: PostgreSQL shows each question its own moment.
        upload = find_upload(session, project_id, upload_id)
        if upload.status == "completed":
            return _completed(session, upload)
        _check_status(upload)
        parts = _chosen(upload, every, request.part_ids)
    with ours.storage.incoming() as incoming:
        _join(ours, parts, incoming, request.md5)
        with kept(ours, incoming) as (digest, size), ours.database.writing() as session:
            upload = find_upload(session, project_id, upload_id, to_change=True)
            if upload.status == "completed":
                return _completed(session, upload)
            _check_status(upload)
            done, part_ids = _finish(ours, session, upload, digest, size)
    remove_parts(ours, part_ids)
    ours.wake.set()
    return done


def cancel_upload(ours: Services, project_id: str, upload_id: str) -> UploadObject:
    """Raises ApiError for one that has ended in another way."""
    with ours.database.writing() as session:
        upload = find_upload(session, project_id, upload_id, to_change=True)
        if upload.status != "cancelled":
            _check_status(upload)
        upload.status = "cancelled"
        part_ids = _drop_parts(session, upload)
    remove_parts(ours, part_ids)
    return upload_object(upload, None)


def _check_pending(session: Session, project_id: str) -> None:
    """What is only promised takes no room, but its row does."""
    mine = (Upload.project_id == project_id, Upload.status == "pending", Upload.expires_at > int(time.time()))
    if (session.scalar(select(func.count()).select_from(Upload).where(*mine)) or 0) >= _MOST_PENDING:
        raise invalid(
            f"{_MOST_PENDING} uploads are pending; complete or cancel some", code="too_many_uploads"
        )


def _check_status(upload: Upload) -> None:
    status = upload.status
    if status == "pending" and upload.expires_at <= time.time():
        status = "expired"
    if status != "pending":
        raise invalid(f"Upload {upload.id} is {status}", "upload_id", f"upload_{status}")


def _completed(session: Session, upload: Upload) -> UploadObject:
    """With its file, unless that was deleted since."""
    file = session.scalar(select(File).where(File.id == upload.file_id, there(int(time.time()))))
    return upload_object(upload, file)


def _parts(session: Session, upload: Upload) -> dict[str, Part]:
    """By id. The session forgets them, and the upload, which has to be asked for again."""
    every = {part.id: part for part in session.scalars(select(Part).where(Part.upload_id == upload.id))}
    session.expunge_all()
    return every


def _chosen(upload: Upload, every: Mapping[str, Part], part_ids: Sequence[str]) -> list[Part]:
    """The parts in the client's order. Raises ApiError unless they are what was promised."""
    if strange := [each for each in part_ids if each not in every]:
        raise invalid(f"Upload {upload.id} has no part {strange[0][:64]!a}", "part_ids")
    if len(set(part_ids)) != len(part_ids):
        raise invalid("A part is named twice", "part_ids")
    parts = [every[each] for each in part_ids]
    if (size := sum(part.bytes for part in parts)) != upload.bytes:
        raise invalid(f"The parts have {size} bytes together, and {upload.bytes} were promised", "part_ids")
    return parts


def _join(ours: Services, parts: Sequence[Part], incoming: Incoming, md5: str | None) -> None:
    """Raises ApiError when it is not what the client meant to send."""
    found = hashlib.md5(usedforsecurity=False)
    try:
        for part in parts:
            with ours.storage.part_path(part.id).open("rb") as file:
                while data := file.read(_CHUNK):
                    found.update(data)
                    incoming.write(data)
    except FileNotFoundError:
        # Another request has completed or cancelled it meanwhile.
        raise ApiError(409, "The upload was ended by another request; ask again", param="upload_id") from None
    if md5 is not None and md5.lower() != found.hexdigest():
        raise invalid(f"The parts have the MD5 {found.hexdigest()}, and {md5.lower()} was said", "md5")


def _finish(
    ours: Services, session: Session, upload: Upload, digest: str, size: int
) -> tuple[UploadObject, list[str]]:
    """The file, in place of the parts."""
    now = int(time.time())
    part_ids = _drop_parts(session, upload)
    check_room(session, upload.project_id, size, ours.settings.limits.project_bytes)
    file = add_file(
        session,
        project_id=upload.project_id,
        digest=digest,
        size=size,
        filename=upload.filename,
        purpose=PURPOSE,
        status="uploaded",
        now=now,
        expires_at=now + upload.file_seconds if upload.file_seconds else None,
    )
    upload.status, upload.file_id = "completed", file.id
    return upload_object(upload, file), part_ids


def _drop_parts(session: Session, upload: Upload) -> list[str]:
    gone = delete(Part).where(Part.upload_id == upload.id).returning(Part.id)
    return list(session.scalars(gone))


def _counted(session: Session, upload_id: str) -> int:
    return session.scalar(select(func.count()).select_from(Part).where(Part.upload_id == upload_id)) or 0
