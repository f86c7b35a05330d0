"""What is gone by itself, when its time is over."""

import time

from sqlalchemy import and_, delete, or_, select, update

from hone_api.database.tables import File, Part, Upload
from hone_api.files.removing import removable, remove_files, remove_parts
from hone_api.services import Services

_REMEMBERED = 86_400
"""Seconds for which an upload is known after its end, should its client ask again what became of it."""
_AT_ONCE = 500


def expire_files(ours: Services) -> None:
    """Remove what nobody may ask for any more. The reconcile loop calls it, at every tick."""
    now = int(time.time())
    with ours.database.reading() as session:
        gone = session.scalars(select(File.id).where(removable(now)).limit(_AT_ONCE)).all()
    remove_files(ours, gone)
    _expire_uploads(ours, now)


def _expire_uploads(ours: Services, now: int) -> None:
    late = and_(Upload.status == "pending", Upload.expires_at <= now)
    old = and_(Upload.status != "pending", Upload.expires_at <= now - _REMEMBERED)
    with ours.database.reading() as session:
        if session.scalar(select(Upload.id).where(or_(late, old)).limit(1)) is None:
            return
    with ours.database.writing() as session:
        expired = session.scalars(
            update(Upload).where(late).values(status="expired").returning(Upload.id)
        ).all()
        parts = session.scalars(delete(Part).where(Part.upload_id.in_(expired)).returning(Part.id)).all()
        session.execute(delete(Upload).where(old))
    remove_parts(ours, parts)
