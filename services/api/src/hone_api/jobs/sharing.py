"""One GPU for training and serving: one of them waits, as `local.serving` says."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import httpx
from sqlalchemy import or_, select

from hone_api.database.tables import Event, Job
from hone_api.jobs import states
from hone_api.launcher.stages import Command, Launcher
from hone_api.services import Services
from hone_api.settings import Upstream
from hone_contract.artifact import write_atomically

_STAGES = "serving"
"""What stands for a job in the names of these stages."""
_SECONDS = 2.0
_AGAIN = 30
"""Seconds until a command that failed is run once more."""

Wish = Literal["pause", "resume"]


@dataclass(frozen=True)
class Sharing:
    """Looks at what the loop sees, and keeps in a file what it last asked for. Made anew for every look."""

    services: Services
    launcher: Launcher

    def lets_train(self, job: Job) -> bool:
        """Whether the GPU is free for this job; its events say what it waits for."""
        mode = self.services.settings.local.serving
        if mode == "wait" and self._somebody_serves:
            self._tell_once(job, "Training waits until serving has ended: they share the GPU")
            return False
        if mode == "pause" and not self._is("pause"):
            self._tell_once(job, "Serving is paused while the job trains: they share the GPU")
            self._ask("pause")
            return False
        return True

    def look(self) -> None:
        """Let serving go on when no job trains or waits any more."""
        _, last, _ = self._wish()
        if last == "resume" or (last == "pause" and not self._trains()):
            self._ask("resume")

    def _trains(self) -> bool:
        wanted = select(Job.number).where(or_(Job.slot.is_not(None), Job.status == states.QUEUED))
        with self.services.database.reading() as session:
            return session.scalar(wanted.limit(1)) is not None

    def _ask(self, wish: Wish) -> None:
        """Have the operator's command run once; again, when it failed some time ago."""
        count, last, when = self._wish()
        state = self.launcher.state(_name(count, last))
        if state.state == "running" or (last == wish and state.code == 0):
            return
        if last == wish and state.state == "ended" and time.time() < when + _AGAIN:
            return
        if last != wish or state.state == "ended":
            count += 1
            told = {"count": count, "wish": wish, "when": int(time.time())}
            write_atomically(self._file, json.dumps(told))
        local = self.services.settings.local
        command = local.pause_command if wish == "pause" else local.resume_command
        self.services.reporter.tell(f"serving_{wish}", f"{wish} serving: {command[0]}", count=count)
        self.launcher.begin(_name(count, wish), Command(command))
        self._forget_before(count)

    def _forget_before(self, count: int) -> None:
        """What became of the newest command is all that is asked for."""
        for name in self.launcher.names(_STAGES):
            if not name.startswith(f"{_STAGES}/{count}-"):
                # One that is left here goes with the next command.
                with suppress(RuntimeError):
                    self.launcher.forget(name)

    def _is(self, wish: Wish) -> bool:
        count, last, _ = self._wish()
        return last == wish and self.launcher.state(_name(count, last)).code == 0

    def _wish(self) -> tuple[int, str, int]:
        """What was asked for last: its number, which of the two, and when."""
        try:
            told = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0, "none", 0
        return told["count"], told["wish"], told["when"]

    @property
    def _file(self) -> Path:
        return self.services.settings.data / "serving.json"

    @cached_property
    def _somebody_serves(self) -> bool:
        """A server that takes a connection holds its GPU, however long it takes to answer, and whatever.

        Asked once, however many jobs wait: each server may take seconds.
        """
        return any(self._is_there(server) for server in self.services.settings.every_server)

    def _is_there(self, server: Upstream) -> bool:
        try:
            httpx.get(f"{server.url}/health", timeout=_SECONDS, trust_env=False)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return False
        except httpx.TransportError:
            pass
        return True

    def _tell_once(self, job: Job, message: str) -> None:
        with self.services.database.writing() as session:
            mine = select(Event.number).where(Event.job_number == job.number, Event.message == message)
            if session.scalar(mine.limit(1)) is None:
                states.tell(session, job, message)


def _name(count: int, wish: str) -> str:
    """Of the stage that runs the command."""
    return f"{_STAGES}/{count}-{wish}"
