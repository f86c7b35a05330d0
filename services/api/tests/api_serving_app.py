"""The routes that hand requests on, on a real port, before the stand-ins that a test names."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI, OpenAI

from hone_api.app import make_app
from hone_api.database.session import Database
from hone_api.database.tables import Checkpoint, Job, Model, Table
from hone_api.files.storage import Storage
from hone_api.keys import create_key, find_caller
from hone_api.services import Services
from hone_api.serving.upstreams import Upstreams
from hone_api.settings import Settings
from hone_contract.events import Reporter

BASE, STORED = "demo/tiny", "demo--tiny"
"""A name in the settings, and what servers call it."""
TUNED, ADAPTER = "ft:demo/tiny:hone:one:abcdefgh", "hone-faq-0123456789"
"""Likewise of a model that was tuned."""
ASK: list[Any] = [{"role": "user", "content": "Count"}]


@dataclass(frozen=True)
class ServingApp:
    """One that runs, and its database."""

    url: str
    database: Database
    log: Path
    settings: Settings
    app: FastAPI

    def key(self, project: str = "one", *scopes: Any, **limits: int | None) -> str:
        with self.database.writing() as session:
            return create_key(session, project, scopes or ("chat", "tune"), **limits)

    def client(self, key: str | None = None, retries: int = 0) -> OpenAI:
        return OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.key(),
            max_retries=retries,
            _strict_response_validation=True,
        )

    def asynchronous(self, key: str | None = None) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.key(),
            max_retries=0,
            _strict_response_validation=True,
        )

    def add_model(self, name: str, served_as: str, project: str = "one", **other: Any) -> None:
        """A fine-tuned model, and the job that it is of."""
        with self.database.writing() as session:
            job = _job(self._project_id(project), name)
            session.add(job)
            session.flush()
            session.add(
                Model(
                    id=name,
                    project_id=job.project_id,
                    job_number=job.number,
                    served_as=served_as,
                    **({"created_at": 100, "base": STORED, "merged": False} | other),
                )
            )

    def add_checkpoint(self, name: str, served_as: str | None, project: str = "one") -> None:
        with self.database.writing() as session:
            job = _job(self._project_id(project), name)
            session.add(job)
            session.flush()
            told = {"id": f"ftckpt-{name}", "created_at": 1, "step": 1, "metrics": {}}
            session.add(Checkpoint(job_number=job.number, model=name, served_as=served_as, **told))

    def _project_id(self, project: str) -> str:
        key = self.key(project)
        with self.database.reading() as session:
            caller = find_caller(session, key)
        assert caller is not None
        return caller.project_id


@contextmanager
def serving_app(folder: Path, *servers: dict[str, Any], **settings: Any) -> Iterator[ServingApp]:
    """Servers as the settings have them."""
    told = Settings.model_validate(
        {"data": folder, "models": {BASE: {"base": "demo:tiny"}}, "servers": list(servers)} | settings
    )
    folder.mkdir(exist_ok=True)
    database, log = Database(told.database_url), folder / "log.jsonl"
    Table.metadata.create_all(database._engine)
    services = Services(
        settings=told,
        database=database,
        storage=Storage(folder),
        upstreams=Upstreams(told),
        reporter=Reporter("api", log),
    )
    app = make_app(services)
    with _running(app) as url:
        yield ServingApp(url, database, log, told, app)
    database.close()


@contextmanager
def tuned_app(upstream: str, folder: Path, database: str) -> Iterator[ServingApp]:
    """One tuned model, and a server of its base with a key of its own."""
    server = {"url": upstream, "base": "demo:tiny", "key_variable": "STAND_IN_KEY"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAND_IN_KEY", "of-the-server")
        with serving_app(folder, server, database=database) as here:
            here.add_model(TUNED, ADAPTER)
            yield here


@contextmanager
def _running(app: Any) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        configuration = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        server = uvicorn.Server(configuration)
        thread = Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _job(project_id: str, name: str) -> Job:
    """Only what models and checkpoints need of one is true of it."""
    neutral: dict[type, Any] = {str: "", int: 0, float: 0.0, bool: False, object: {}}
    said = {"id": f"ftjob-{name}", "project_id": project_id, "model": BASE, "status": "succeeded"}
    needed = [column for column in Job.__table__.columns if not column.nullable and not column.primary_key]
    return Job(**{column.name: neutral[column.type.python_type] for column in needed} | said)
