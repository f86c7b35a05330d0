"""What keys have used, by day and model: counted in memory, written down in batches beside the requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from hone_api import metrics
from hone_api.database.session import Database
from hone_api.database.tables import Key, Project, Used
from hone_api.metering.tokens import Tokens
from hone_api.settings import Settings
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter

DAY = 86_400
_EVERY = 5.0
"""Seconds; what a kill -9 can lose."""
_MOST_LABELS = 1000
_OTHER = "other"

_Counts = tuple[int, int, int]
"""Requests, tokens of prompts, tokens of answers."""


class Usage:
    """Of this process. Counting is for the event loop's thread alone."""

    def __init__(self, settings: Settings, database: Database, reporter: Reporter) -> None:
        self._settings, self._database, self._reporter = settings, database, reporter
        self._unwritten: dict[tuple[int, str, str], _Counts] = {}
        self._labels: set[tuple[str, str]] = set()

    def add(self, key_id: str, model: str, tokens: Tokens) -> None:
        """One request that was answered."""
        day = int(time.time()) // DAY * DAY
        self._merge((day, key_id, model), (1, tokens.prompt, tokens.completion))
        labels = self._label(key_id, model)
        metrics.MODEL_REQUESTS.labels(*labels).inc()
        metrics.PROMPT_TOKENS.labels(*labels).inc(tokens.prompt)
        metrics.COMPLETION_TOKENS.labels(*labels).inc(tokens.completion)

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Writes every few seconds, and at the end what is left."""
        ending = asyncio.Event()
        writing = asyncio.create_task(self._record(ending))
        try:
            yield
        finally:
            ending.set()
            await writing

    async def _record(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), _EVERY)
            if counted := self._take():
                await self._write_or_keep(counted)

    async def _write_or_keep(self, counted: dict[tuple[int, str, str], _Counts]) -> None:
        try:
            await run_in_threadpool(_write, self._database, counted)
        except SQLAlchemyError as error:
            # The database may be back at the next time.
            told = f"{len(counted)} counts are kept for later: {type(error).__name__}: {error}"
            self._reporter.tell("usage_not_written", told, level="error")
            for name, counts in counted.items():
                self._merge(name, counts)

    def write_rest(self) -> None:
        """What requests counted that were cut off at the very end, when nothing runs any more."""
        try:
            if counted := self._take():
                _write(self._database, counted)
        except SQLAlchemyError as error:
            told = f"{len(counted)} counts are lost: {type(error).__name__}: {error}"
            self._reporter.tell("usage_not_written", told, level="error")

    def _take(self) -> dict[tuple[int, str, str], _Counts]:
        counted, self._unwritten = self._unwritten, {}
        return counted

    def _merge(self, name: tuple[int, str, str], counts: _Counts) -> None:
        requests, prompt, completion = self._unwritten.get(name, (0, 0, 0))
        self._unwritten[name] = (requests + counts[0], prompt + counts[1], completion + counts[2])

    def _label(self, key_id: str, model: str) -> tuple[str, str]:
        """For `/metrics`, which tells no project's names and has no more lines than a Prometheus can take."""
        labels = (key_id, kind_of(self._settings, model))
        if labels not in self._labels and len(self._labels) >= _MOST_LABELS:
            return (_OTHER, _OTHER)
        self._labels.add(labels)
        return labels


def kind_of(settings: Settings, model: str) -> str:
    """A name of the settings, with `ft:` before it for what was tuned from that."""
    if model in settings.models or any(server.model == model for server in settings.every_server):
        return model
    bases = [name for name in settings.models if model.startswith(f"ft:{name}:")]
    return f"ft:{max(bases, key=len)}" if bases else _OTHER


def _write(database: Database, counted: dict[tuple[int, str, str], _Counts]) -> None:
    insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
    adding = insert(Used)
    fields = ("requests", "prompt_tokens", "completion_tokens")
    adding = adding.on_conflict_do_update(
        index_elements=["day", "key_id", "model"],
        set_={each: getattr(Used, each) + adding.excluded[each] for each in fields},
    )
    # In one order, so that two apis of one PostgreSQL do not wait for each other's rows.
    rows = [
        dict(zip(("day", "key_id", "model", *fields), (*name, *counts), strict=True))
        for name, counts in sorted(counted.items())
    ]
    with database.writing() as session:
        session.execute(adding, rows)


@dataclass(frozen=True)
class Line:
    """Of what `hone-api usage` prints."""

    day: str
    project: str
    key: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


def lines(session: Session, project: str | None, key: str | None, since: int | None) -> Iterator[Line]:
    """The oldest day first. Raises BadConfiguration for a project or key that there is not."""
    if project is not None and session.scalar(select(Project.id).where(Project.name == project)) is None:
        raise BadConfiguration(f"no project is called {project!r}; `hone-api keys list` shows them")
    if key is not None and session.get(Key, key) is None:
        raise BadConfiguration(f"no key has the id {key!r}; `hone-api keys list` shows them")
    wanted = select(Used, Project.name).join(Key, Key.id == Used.key_id).join(Project)
    for column, value in ((Project.name, project), (Used.key_id, key)):
        wanted = wanted if value is None else wanted.where(column == value)
    if since is not None:
        wanted = wanted.where(Used.day >= since)
    for used, name in session.execute(wanted.order_by(Used.day, Project.name, Used.key_id, Used.model)):
        day = datetime.fromtimestamp(used.day, UTC).date().isoformat()
        counts = (used.requests, used.prompt_tokens, used.completion_tokens)
        yield Line(day, name, used.key_id, used.model, *counts)
