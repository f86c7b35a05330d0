"""Every file to learn from is read once, by the trainer's own code, in a process of its own.

Nothing is remembered here: the launcher is asked what stands of each stage, so whoever was killed goes on
wherever it was.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError
from sqlalchemy import select, update

from hone_api.database.tables import File
from hone_api.files.removing import remove_files, unneeded
from hone_api.launcher.stages import Command, Launcher
from hone_api.services import Services

_AT_ONCE = 2
_AGAIN = 3
"""How often a stage is begun again that was lost."""
_LOOKED_AT = 100
_SHOWN = 10
_TAIL = 2**20
_STOPPED = 0
"""When the check of a file was to have ended that was stopped for it."""
_READ, _LOST = (0, 65), (None, 75)


class _Problem(BaseModel):
    """A line that cannot be learned from."""

    line: int | None
    message: str


class _Report(BaseModel):
    """What `hone-trainer check --json` tells in its last line."""

    records: int
    problems: list[_Problem]
    more: int

    @property
    def details(self) -> str | None:
        """What is wrong with the file, for its owner. None: nothing is."""
        if not self.problems:
            return None if self.records else "The file holds no example"
        shown = self.problems[:_SHOWN]
        told = [f"line {each.line}: {each.message}" if each.line else each.message for each in shown]
        more = len(self.problems) - len(shown) + self.more
        return "\n".join([*told, *([f"… and {more} more"] if more else [])])


def check_files(ours: Services, launcher: Launcher) -> None:
    """Begin, follow and end the reading of files. The reconcile loop calls it, at every tick."""
    needed, dropped = _unread(ours)
    for file in dropped:
        _give_up(ours, launcher, file)
    running = 0
    for file in needed:
        if running < _AT_ONCE:
            running += _bring_on(ours, launcher, file)


def _unread(ours: Services) -> tuple[Sequence[File], Sequence[File]]:
    """Those to be read, and those that nobody wants any more. The oldest first: they are the ones begun."""
    gone = unneeded(int(time.time()))
    unread = select(File).where(File.status == "uploaded").order_by(File.number).limit(_LOOKED_AT)
    with ours.database.reading() as session:
        return session.scalars(unread.where(~gone)).all(), session.scalars(unread.where(gone)).all()


def _bring_on(ours: Services, launcher: Launcher, file: File) -> bool:
    """Whether it is being read now."""
    for name in _stages(file):
        found = launcher.state(name)
        if found.state == "absent":
            if file.check_until == _STOPPED:
                break
            _note(ours, file, int(time.time() + ours.settings.limits.check_seconds))
            launcher.begin(name, _command(ours, file))
            return True
        if found.state == "running":
            if found.note and file.check_until:
                _wait(ours, file, file.check_until)
            elif file.check_until is not None and file.check_until < time.time():
                _note(ours, file, _STOPPED)
                launcher.stop(name)
            return True
        report = _report(launcher.output(name)) if found.code in _READ else None
        if report is not None:
            _end(ours, launcher, file, report.details, report.records)
            return False
        if found.code not in (*_LOST, *_READ):
            _end(ours, launcher, file, _failed(ours, file, found.code))
            return False
    _end(ours, launcher, file, _failed(ours, file, None))
    return False


def _wait(ours: Services, file: File, until: int) -> None:
    """What waits for a node or an image does not read: at least half of its time is left for that."""
    seconds = ours.settings.limits.check_seconds
    if until < time.time() + seconds / 2:
        _note(ours, file, int(time.time() + seconds))


def _note(ours: Services, file: File, until: int) -> None:
    """Before it is done, so that whoever comes after a kill knows why a stage has ended."""
    with ours.database.writing() as session:
        session.execute(update(File).where(File.id == file.id).values(check_until=until))


def _give_up(ours: Services, launcher: Launcher, file: File) -> None:
    """Nothing of a stage may be left, and then nothing of the file."""
    at_work = [name for name in _stages(file) if launcher.state(name).state == "running"]
    for name in at_work:
        launcher.stop(name)
    if not at_work:
        _end(ours, launcher, file, "The file was deleted before it was read")
        remove_files(ours, [file.id])


def _stages(file: File) -> list[str]:
    return [f"{file.id}/{count}-check" for count in range(1, _AGAIN + 2)]


def _command(ours: Services, file: File) -> Command:
    program = ours.settings.command("check")
    path = ours.storage.path(file.digest).absolute()
    return Command([*program, str(path), "--json"], reads=[path])


def _report(output: Path) -> _Report | None:
    """None: it was cut off, with whatever held it."""
    try:
        with output.open("rb") as file:
            file.seek(-min(_TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = file.read().splitlines()
        return _Report.model_validate_json(lines[-1] if lines else b"")
    except (FileNotFoundError, ValidationError):
        return None


def _failed(ours: Services, file: File, code: int | None) -> str:
    """The reason is the operator's to find; the log says which file it was."""
    if file.check_until == _STOPPED:
        seconds = ours.settings.limits.check_seconds
        ours.reporter.tell(
            "check_stopped", f"{file.id}: its check took too long", level="error", file=file.id
        )
        return f"The file could not be read in {seconds:g} seconds, which is the most; upload a smaller one"
    ours.reporter.tell(
        "check_failed",
        f"{file.id}: its check ended with {code}, which says nothing of the file",
        level="error",
        file=file.id,
        code=code,
    )
    return "The file could not be read here; upload it again, and tell the operator if that does not help"


def _end(
    ours: Services, launcher: Launcher, file: File, details: str | None, records: int | None = None
) -> None:
    """The stages go first: should this be cut off, the file is read again. A report is not read twice."""
    for name in reversed(_stages(file)):
        if launcher.state(name).state == "ended":
            launcher.forget(name)
    with ours.database.writing() as session:
        session.execute(
            update(File)
            .where(File.id == file.id, File.status == "uploaded")
            .values(
                status="processed" if details is None else "error",
                status_details=details,
                records=records if details is None else None,
            )
        )
    # Jobs may wait for it.
    ours.wake.set()
