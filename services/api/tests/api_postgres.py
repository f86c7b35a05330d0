"""A PostgreSQL server for tests: the one that is installed, or Debian's packages, unpacked and nothing more.

It listens on a socket in a folder of its own and writes nothing to the disk for good. It refuses to run as
root, so root runs it as `nobody`.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

_PACKAGES = Path(__file__).resolve().parents[3] / "build" / "postgresql"
_INSTALLED = Path("/usr/lib/postgresql")
_NOBODY = 65534
_SECONDS = 60
_INITIAL = ("--username=hone", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
_HASTY = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
# GMT is the one time zone that is no file.
_SMALL = ("listen_addresses=", "shared_buffers=16MB", "timezone=GMT", "log_timezone=GMT", "jit=off")


class NotHere(Exception):
    """There is no PostgreSQL, and none can be had."""


@dataclass(frozen=True)
class Server:
    """One that runs."""

    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new one, as the api's settings have it; it is dropped with whoever is in it."""
        name = f"hone_{next(self.numbers)}"
        self._say(f"CREATE DATABASE {name}")
        url = f"postgresql+psycopg://hone@/{name}?host={self.folder}"
        try:
            yield url
        finally:
            self.drop(url)

    def drop(self, url: str) -> None:
        """As if it had never been there, for whoever uses it too."""
        name = url.partition("?")[0].rpartition("/")[2]
        self._say(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _say(self, statement: str) -> None:
        with psycopg.connect(f"host={self.folder} user=hone dbname=postgres", autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres() -> Iterator[Server]:
    """Raises NotHere."""
    # Not in pytest's own folder, which nobody but its user may enter.
    with tempfile.TemporaryDirectory(prefix="hone-postgres-") as name:
        folder = Path(name)
        programs, libraries = _programs(folder)
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
        data = folder / "data"
        made = _run(libraries, programs / "initdb", "--pgdata", data, *_INITIAL)
        assert made.wait(_SECONDS) == 0, made.args
        chosen = [word for each in (*_HASTY, *_SMALL) for word in ("-c", each)]
        server = _run(libraries, programs / "postgres", "-D", data, "-k", folder, *chosen)
        try:
            _wait(server, folder)
            yield Server(folder)
        finally:
            # At once: whoever is connected is sent away.
            server.send_signal(signal.SIGINT)
            server.wait(_SECONDS)


def _run(libraries: str, program: Path, *arguments: str | Path) -> "subprocess.Popen[bytes]":
    who = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    return subprocess.Popen(
        [*(who if os.geteuid() == 0 else []), program, *arguments],
        cwd="/",
        env={"PATH": os.defpath, "LD_LIBRARY_PATH": libraries, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    until = time.monotonic() + _SECONDS
    while True:
        try:
            psycopg.connect(f"host={folder} user=hone dbname=postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None and time.monotonic() < until, "PostgreSQL does not answer"
            time.sleep(0.02)


def _programs(folder: Path) -> tuple[Path, str]:
    """The folder with `initdb` and `postgres`, and where libraries are that they may need."""
    if found := sorted(_INSTALLED.glob("*/bin/postgres")):
        return found[-1].parent, ""
    _PACKAGES.mkdir(parents=True, exist_ok=True)
    with (_PACKAGES / "lock").open("w") as lock:
        # Other workers of this run want it too.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(_PACKAGES.glob("*.deb")):
            _download()
    # Into the folder that is to be nobody's, who may not be let into ours.
    for package in _PACKAGES.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    # A package has a mode for it too.
    folder.chmod(0o700)
    if not (found := sorted(folder.glob("usr/lib/postgresql/*/bin/postgres"))):
        raise NotHere("PostgreSQL is not installed, and Debian's package postgresql cannot be had")
    unpacked = [*folder.glob("usr/lib/*-linux-gnu"), *folder.glob("lib/*-linux-gnu")]
    return found[-1].parent, os.pathsep.join(map(str, unpacked))


def _download() -> None:
    """The package, and the libraries that are not installed; nothing is installed."""
    if shutil.which("apt-get") is None:
        return
    (_PACKAGES / "partial").mkdir(exist_ok=True)
    here = [
        "-o",
        f"Dir::Cache::archives={_PACKAGES}/",
        "-o",
        "Debug::NoLocking=1",
        "-o",
        "APT::Sandbox::User=",
    ]
    wanted = ["install", "--yes", "--download-only", "--no-install-recommends", "postgresql"]
    if subprocess.run(["apt-get", *here, *wanted], capture_output=True, check=False).returncode:
        # The list of packages may be old, or not there at all.
        subprocess.run(["apt-get", "update"], capture_output=True, check=False)
        subprocess.run(["apt-get", *here, *wanted], capture_output=True, check=False)
