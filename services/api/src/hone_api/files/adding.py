"""A new file: its bytes come into place, and a row says whose they are."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hone_api.database.tables import File, Part, Project, Upload
from hone_api.errors import invalid
from hone_api.files.removing import remove_unused
from hone_api.files.storage import Incoming
from hone_api.ids import new_id
from hone_api.services import Services
from hone_api.wire.files import FileStatus, Purpose


@contextmanager
def kept(ours: Services, incoming: Incoming) -> Iterator[tuple[str, int]]:
    """Digest and size of bytes that are in place, for a transaction that adds their row; should that fail,
    they are gone again.

    The transaction is inside: `with kept(…) as (digest, size), ours.database.writing() as session: …`
    """
    incoming.settle()
    with ours.storage.alone():
        digest, size = incoming.keep()
        added = False
        try:
            yield digest, size
            added = True
        finally:
            if not added:
                remove_unused(ours, [digest])


def add_file(
    session: Session,
    *,
    project_id: str,
    digest: str,
    size: int,
    filename: str,
    purpose: Purpose,
    status: FileStatus,
    now: int,
    expires_at: int | None = None,
) -> File:
    """The row of bytes that are `kept`. One with the status `uploaded` is read by the reconcile loop."""
    file = File(
        id=new_id("file-"),
        project_id=project_id,
        digest=digest,
        bytes=size,
        filename=filename,
        purpose=purpose,
        status=status,
        status_details=None,
        records=None,
        check_until=None,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(file)
    session.flush()
    return file


def check_room(session: Session, project_id: str, size: int, most: int) -> None:
    """Raises ApiError when a project would have more than `most` bytes.

    It is no 413, since a smaller file may not fit either, and no 429, which SDKs would send again.
    """
    # One after another, or two that fit alone would both be let in.
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())
    files = session.scalar(select(func.sum(File.bytes)).where(File.project_id == project_id))
    parts = session.scalar(select(func.sum(Part.bytes)).join(Upload).where(Upload.project_id == project_id))
    used = int(files or 0) + int(parts or 0)
    if used + size > most:
        raise invalid(
            f"The project has {used} bytes of files, and {size} more would be over {most}; delete some files",
            code="storage_quota_exceeded",
        )
