"""What is removed, and when.

Whoever deletes a file sees it no more, and neither does anybody see one that has expired. Its row and its
bytes go with the last job that needs them: a deleted file does not stop a job that was begun with it.
"""

import time
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select

from hone_api.database.tables import File, Job, Part
from hone_api.files.finding import there
from hone_api.jobs.states import ACTIVE, PAUSED
from hone_api.services import Services

DELETED = 0
"""The time at which a deleted file has expired."""


def unneeded(now: int) -> ColumnElement[bool]:
    """Of files: gone, and no job needs it still."""
    used = exists().where(
        Job.status.in_(sorted(ACTIVE | {PAUSED})),
        or_(Job.training_file == File.id, Job.validation_file == File.id),
    )
    return and_(~there(now), ~used)


def removable(now: int) -> ColumnElement[bool]:
    """Of files: unneeded, and not being read, which `checking` ends first: a stage would be left behind."""
    return and_(unneeded(now), File.status != "uploaded")


def remove_files(ours: Services, file_ids: Sequence[str]) -> None:
    """Of these, the ones that are gone and that nothing needs any more."""
    if not file_ids:
        return
    wanted = (File.id.in_(file_ids), removable(int(time.time())))
    with ours.storage.alone():
        with ours.database.writing() as session:
            digests = set(session.scalars(delete(File).where(*wanted).returning(File.digest)))
        remove_unused(ours, digests)


def remove_unused(ours: Services, digests: Iterable[str]) -> None:
    """The bytes that no row has. Only for whoever is alone in the storage."""
    with ours.database.reading() as session:
        for digest in digests:
            if session.scalar(select(File.number).where(File.digest == digest).limit(1)) is None:
                ours.storage.remove(digest)


def remove_parts(ours: Services, part_ids: Iterable[str]) -> None:
    """Their bytes, when their rows are gone."""
    for part_id in part_ids:
        ours.storage.remove_part(part_id)


def sweep_files(ours: Services) -> None:
    """Remove what a process left that was killed. Called once, before requests are taken."""
    ours.storage.sweep()
    with ours.storage.alone():
        remove_unused(ours, ours.storage.digests())
        with ours.database.reading() as session:
            for part_id in ours.storage.part_ids():
                if session.get(Part, part_id) is None:
                    ours.storage.remove_part(part_id)
