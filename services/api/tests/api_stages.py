"""Stages of real processes for tests: small scripts that run, and ways to wait for what becomes of them."""

import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TypeVar

import psutil

from hone_api.launcher.folder import Folder
from hone_api.launcher.local import LocalLauncher
from hone_api.launcher.stages import Command, State
from hone_api.settings import Local, Settings

Found = TypeVar("Found")
JOB = "ftjob-1"
NAME = f"{JOB}/1-train"

APPEND = """
import os, sys
def append(word):
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word} {os.getpid()}\\n".encode())
    os.close(file)
append("begun")
"""
"""Every run of it is a line of the file that is its first argument."""
SLEEP = "import time\nwhile True: time.sleep(60)\n"


def launcher(data: Path, stop_seconds: float = 300) -> LocalLauncher:
    return LocalLauncher(Settings(data=data, local=Local(stop_seconds=stop_seconds)))


def python(code: str, *arguments: object, **environment: str) -> Command:
    return Command([sys.executable, "-S", "-c", code, *map(str, arguments)], environment)


def begin_in(data: Path, command: Command, ready: Event | None = None, times: int = 1) -> None:
    """What a process does that is going to be killed, from when it is ready."""
    here = launcher(data)
    if ready:
        ready.set()
    for _ in range(times):
        here.begin(NAME, command)


def until(found: Callable[[], Found], seconds: float = 20) -> Found:
    """The first answer that is something."""
    late = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < late, "it never happened"
        time.sleep(0.01)
    return answer


def ended(launcher: LocalLauncher, name: str = NAME) -> State:
    def state() -> State | None:
        found = launcher.state(name)
        return found if found.state == "ended" else None

    return until(state)


def keeper_of(data: Path, name: str = NAME) -> int | None:
    return Folder(data.resolve() / "stages" / name).holder()


def lines(file: Path) -> list[str]:
    """What was appended so far, without what is being written now."""
    return file.read_text().splitlines() if file.exists() else []


def pid_of(file: Path) -> int:
    """Of the process that appended the file's newest line."""
    return int(until(lambda: lines(file))[-1].split()[1])


def is_alive(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kept_by_nobody(data: Path) -> bool:
    """Whether no process runs that has anything to do with what is in `data`."""
    return not [process for process in psutil.process_iter() if str(data) in _told(process)]


def _told(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
