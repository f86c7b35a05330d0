"""What is left of a job that has ended: its stages, and by another name the examples that its owner may have
deleted. They are on disk for as long as the job needs them, and no longer.

What there is to do is found by the folders themselves, so whoever is killed here leaves the rest to the next
look: a job's examples go at once, its stages when all adapters are made, and last the folder by which it is
found.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sqlalchemy import exists, select

from hone_api.database.tables import Checkpoint, Job
from hone_api.files.finding import is_id
from hone_api.jobs import states
from hone_api.jobs.workspace import EVAL, TRAIN, Workspace
from hone_api.launcher.stages import Launcher
from hone_api.services import Services

_AT_ONCE = 500
"""Ids in one question to the database."""


def left_behind(services: Services) -> Iterator[tuple[Path, bool]]:
    """The folders of jobs that have ended and do not train any more, and whether all adapters are made.

    A folder without a job stays: it may be that of a database which is not the one that was configured.
    """
    root = services.settings.data.resolve() / "jobs"
    names = sorted(filter(is_id, os.listdir(root))) if root.is_dir() else []
    # What an adapter is made by is among the job's stages.
    without_adapter = exists().where(Checkpoint.job_number == Job.number, Checkpoint.served_as.is_(None))
    for at in range(0, len(names), _AT_ONCE):
        ended = select(Job.id, without_adapter).where(
            Job.id.in_(names[at : at + _AT_ONCE]), Job.status.in_(states.FINAL), Job.slot.is_(None)
        )
        with services.database.reading() as session:
            found = session.execute(ended).all()
        yield from ((root / name, not lacks) for name, lacks in found)


def clean(launcher: Launcher, folder: Path, has_adapters: bool) -> None:
    """Remove the examples of a job that has ended; with all adapters made, its stages and its folder too."""
    for name in (TRAIN, EVAL):
        (folder / name).unlink(missing_ok=True)
    if not has_adapters:
        return
    for name in launcher.names(folder.name):
        if launcher.state(name).state == "running":
            launcher.stop(name)
        else:
            # A keeper that came at this moment finds that it is to stop.
            with suppress(RuntimeError):
                launcher.forget(name)
    if not launcher.names(folder.name):
        Workspace(folder).remove()
