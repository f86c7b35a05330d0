"""Stages as processes of this machine, which go on when the api is killed, for the next one to find.

The api holds nothing that matters: where a stage stands is in its folder and in the kernel (see `folder`).
So there is nothing to adopt but the folders, and several apis may look at them at once.
"""

import os
import select
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from hone_api.launcher.environment import without_secrets
from hone_api.launcher.folder import MARK, Folder
from hone_api.launcher.stages import Command, State, folder_of, names_in
from hone_api.settings import Settings

_FORGOTTEN = ".forgotten"
_KEEPER_SECONDS = 60.0
"""The longest wait for a keeper, which takes a twentieth of a second unless the machine is overrun."""
_KILL_SECONDS = 2.0


class LocalLauncher:
    """Implements `Launcher`."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.data.resolve() / "stages"
        self._stop_seconds = settings.local.stop_seconds
        self._secret = [server.key_variable for server in settings.servers]
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        shutil.rmtree(self._root / _FORGOTTEN, ignore_errors=True)

    def begin(self, name: str, command: Command) -> None:
        """When it returns, the stage runs, or has ended already. Beginning it again is never wrong.

        Raises OSError when it cannot be begun now: the disk is full, or there are too many processes.
        """
        folder = self._folder(name)
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = {
            "arguments": list(command.arguments),
            "environment": dict(command.environment),
            "stop_seconds": self._stop_seconds,
        }
        folder.write_command(told)
        if folder.standing() != "absent":
            return
        self._keep(folder)
        if folder.standing() == "absent":
            raise OSError(f"stage {name} could not be begun; {folder.output} may say why")

    def state(self, name: str) -> State:
        """Of a stage that was lost, this also ends what is left, so that nothing is in another one's way."""
        self._wait_for_ended()
        folder = self._folder(name)
        standing = folder.standing()
        if standing == "ended":
            return State("ended", folder.code())
        if standing != "lost":
            return State(standing)
        if not _end_all(str(folder.path)):
            return State("running")
        with suppress(OSError):  # found so again the next time
            folder.mark_lost()
        return State("ended")

    def stop(self, name: str) -> None:
        """Its keeper sees to it, in its own time, whether or not this process lives to see it.

        A stage that never ran will never do so.
        """
        with suppress(FileNotFoundError):
            self._folder(name).ask_to_stop()

    def output(self, name: str) -> Path:
        return self._folder(name).output

    def forget(self, name: str) -> None:
        """Raises RuntimeError for a stage that runs."""
        folder = self._folder(name)
        if self.state(name).state == "absent":
            # A keeper may be on its way, begun by an api that was killed; it finds this and runs nothing.
            self.stop(name)
        if self.state(name).state == "running":
            raise RuntimeError(f"stage {name} runs; stop it, and forget it when it has ended")
        gone = self._root / _FORGOTTEN / uuid.uuid4().hex
        with suppress(FileNotFoundError):
            gone.parent.mkdir(parents=True, exist_ok=True)
            # In one step: with half of its files, it would seem to have never run.
            folder.path.rename(gone)
        with suppress(OSError):
            # At once, since nobody looks for a folder without stages.
            folder.path.parent.rmdir()
        shutil.rmtree(gone, ignore_errors=True)

    def names(self, job: str) -> list[str]:
        """Of a job's stages that are not forgotten."""
        return names_in(self._root, job)

    def _folder(self, name: str) -> Folder:
        """Raises ValueError."""
        return Folder(folder_of(self._root, name))

    def _keep(self, folder: Folder) -> None:
        """Begin a keeper, and wait until it has begun the stage, or found that there is nothing to do."""
        listening, ready = os.pipe()
        try:
            with open(folder.output, "ab", opener=_private) as output:
                keeper = subprocess.Popen(
                    [sys.executable, "-P", "-m", "hone_api.launcher.keeper", str(folder.path), str(ready)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=without_secrets(os.environ, self._secret),
                    start_new_session=True,
                    pass_fds=[ready],
                )
        except OSError:
            os.close(listening)
            raise
        finally:
            os.close(ready)
        with self._lock:
            self._keepers.append(keeper)
        closed = select.poll()
        closed.register(listening, 0)
        closed.poll(_KEEPER_SECONDS * 1000)
        os.close(listening)

    def _wait_for_ended(self) -> None:
        """A keeper that this process began stays in the list of processes until it is asked for."""
        with self._lock:
            self._keepers = [keeper for keeper in self._keepers if keeper.poll() is None]


def _end_all(mark: str) -> bool:
    """Whether all processes are gone that have this mark, of a keeper that was killed.

    The command went with it, but not what the command had begun.
    """
    late = time.monotonic() + _KILL_SECONDS
    while left := list(_marked(mark)):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_KILL_SECONDS / 10)
        if time.monotonic() > late:
            return False
    return True


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(MARK) == mark:
                yield process


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
