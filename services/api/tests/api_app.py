"""The whole api on a real port, with a folder and a database of its own; a test runs its stages itself."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import uvicorn
from openai import AsyncOpenAI, OpenAI
from sqlalchemy import delete, func, select

from hone_api.app import make_app
from hone_api.database.session import Database
from hone_api.database.tables import File, Job, Part, Upload
from hone_api.files.checking import check_files
from hone_api.files.expiry import expire_files
from hone_api.files.removing import sweep_files
from hone_api.files.storage import Storage
from hone_api.keys import Scope, create_key
from hone_api.launcher.stages import Command, Launcher, State
from hone_api.services import Services
from hone_api.serving.upstreams import Upstreams
from hone_api.settings import Settings
from hone_contract.events import Reporter

_SECONDS = 20


@dataclass(frozen=True)
class Api:
    """One that runs."""

    url: str
    services: Services
    folder: Path

    def key(self, project: str = "one", *scopes: Scope) -> str:
        with self.services.database.writing() as session:
            return create_key(session, project, scopes or ("files", "tune", "chat"))

    def client(self, key: str | None = None, retries: int = 0) -> OpenAI:
        """The SDK, which refuses every answer that is not as its types have it."""
        return OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.key(),
            max_retries=retries,
            _strict_response_validation=True,
        )

    def asynchronous(self, key: str | None = None, retries: int = 0) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.key(),
            max_retries=retries,
            _strict_response_validation=True,
        )

    def plain(self, key: str | None = None) -> httpx.Client:
        """Without the SDK, for what it would not send."""
        return httpx.Client(
            base_url=f"{self.url}/v1", headers={"Authorization": f"Bearer {key or self.key()}"}, timeout=30
        )

    def records(self) -> int:
        """Rows of files, of whomever."""
        with self.services.database.reading() as session:
            return session.scalar(select(func.count()).select_from(File)) or 0

    def on_disk(self) -> list[str]:
        """Every file of clients, whole or not."""
        folders = [self.folder / name for name in ("files", "parts", "incoming")]
        return sorted(
            str(each.relative_to(self.folder))
            for folder in folders
            for each in folder.rglob("*")
            if each.is_file()
        )

    def empty(self) -> None:
        """For the next test."""
        with self.services.database.writing() as session:
            for table in (Part, Upload, Job, File):
                session.execute(delete(table))
        sweep_files(self.services)
        assert self.on_disk() == []

    def tick(self, launcher: Launcher, times: int = 1) -> None:
        """What the reconcile loop does for files: one look begins a stage, the next one sees its end."""
        for _ in range(times):
            check_files(self.services, launcher)
            expire_files(self.services)


@dataclass
class Stages:
    """A launcher that runs a stage to its end when it is begun; a test may say what became of it instead."""

    folder: Path
    losing: int = 0
    """So many stages more are lost."""
    begun: list[str] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    held: bool = False
    """Whether stages go on running."""

    def begin(self, name: str, command: Command) -> None:
        if name in self.states:
            return
        self.begun.append(name)
        if self.held:
            self.states[name] = State("running")
            return
        if self.losing:
            self.losing -= 1
            self.states[name] = State("ended", None)
            return
        with self.output(name).open("wb") as output:
            done = subprocess.run(
                list(command.arguments),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(command.environment),
                check=False,
            )
        self.states[name] = State("ended", done.returncode)

    def state(self, name: str) -> State:
        return self.states.get(name, State("absent"))

    def stop(self, name: str) -> None:
        self.stopped.append(name)
        self.states[name] = State("ended", None)

    def output(self, name: str) -> Path:
        return self.folder / name.replace("/", "-")

    def forget(self, name: str) -> None:
        assert self.state(name).state == "ended"
        del self.states[name]
        self.output(name).unlink(missing_ok=True)


@contextmanager
def running_api(folder: Path, **settings: Any) -> Iterator[Api]:
    """Settings as in the file; without `database`, SQLite."""
    told = Settings.model_validate({"data": folder / "data"} | settings)
    told.data.mkdir(exist_ok=True)
    database = Database(told.database_url)
    database.upgrade()
    services = Services(
        settings=told,
        database=database,
        storage=Storage(told.data),
        upstreams=Upstreams(told),
        reporter=Reporter("api", folder / "log.jsonl"),
    )
    with listening(make_app(services)) as url:
        yield Api(url, services, told.data)
    database.close()


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """An application on a port of this machine."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        configuration = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        server = uvicorn.Server(configuration)
        thread = Thread(target=lambda: asyncio.run(server.serve([door])))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_SECONDS)


def wait_until(is_so: Any, seconds: float = _SECONDS) -> None:
    """Raises TimeoutError."""
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.01)
