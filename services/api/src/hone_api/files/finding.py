"""Files and uploads that a client may know of: its project's, and not those that are gone."""

import re

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from hone_api.database.tables import File, Upload
from hone_api.errors import ApiError, missing

# Anything else is the id of nothing, and PostgreSQL knows no NUL.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def there(now: int) -> ColumnElement[bool]:
    """Of files: neither expired nor deleted, which is to have expired in 1970."""
    return or_(File.expires_at.is_(None), File.expires_at > now)


def find_file(session: Session, project_id: str, file_id: str, now: int) -> File | None:
    """None: there is none, or it is gone, or another project's; nobody can tell which."""
    if not is_id(file_id):
        return None
    return session.scalar(select(File).where(File.id == file_id, File.project_id == project_id, there(now)))


def find_upload(session: Session, project_id: str, upload_id: str, *, to_change: bool = False) -> Upload:
    """Raises ApiError. `to_change`: whoever else wants to change it waits."""
    wanted = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    found = session.scalar(wanted.with_for_update() if to_change else wanted) if is_id(upload_id) else None
    if found is None:
        raise missing("Upload object", upload_id, "upload_id")
    return found


def no_file(file_id: str) -> ApiError:
    return missing("File object", file_id, "file_id")
