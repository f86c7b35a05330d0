"""Transactions: short, and of two kinds, since SQLite wants to know beforehand who is going to write."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.orm import Session

from hone_contract.errors import BadConfiguration, RetryableFailure

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_SECONDS = 30
_WRITES = "hone_writes"
_UPGRADE = 0x686F6E65
"""The advisory lock under which tables are made: two apis may begin at once, and PostgreSQL lets both in."""


class Database:
    """One database, by its URL."""

    def __init__(self, url: str) -> None:
        """Raises BadConfiguration for a URL that names no database that is known here."""
        try:
            self._url = make_url(url)
        except ArgumentError:
            raise BadConfiguration(
                "the database's URL cannot be read; it looks like "
                "sqlite:////data/hone-api.db or postgresql+psycopg://user@host/name"
            ) from None
        if self._url.get_backend_name() not in ("sqlite", "postgresql"):
            raise BadConfiguration(f"database {self._url.drivername}: say sqlite or postgresql+psycopg")
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._engine = create_engine(
                self._url, connect_args={"timeout": _BUSY_SECONDS}, hide_parameters=True
            )
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        else:
            url_of_driver = self._url.set(drivername="postgresql+psycopg")
            self._engine = create_engine(
                url_of_driver, pool_size=20, max_overflow=20, pool_pre_ping=True, hide_parameters=True
            )
        self._writing = self._engine.execution_options(**{_WRITES: True})

    def upgrade(self) -> None:
        """Bring the tables to this version's form.

        Raises RetryableFailure when nobody answers, and BadConfiguration for what a newer version made, or
        what is no database of ours.
        """
        if self.is_sqlite:
            _make_private(self._url.database or "")
        configuration = Config()
        configuration.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        try:
            with self._writing.begin() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE})
                self._check_version(connection, ScriptDirectory.from_config(configuration))
                configuration.attributes["connection"] = connection
                command.upgrade(configuration, "head")
        except OperationalError as error:
            raise RetryableFailure(f"the database {self.name}: {error.orig}") from None
        except DatabaseError as error:
            raise BadConfiguration(f"the database {self.name}: {error.orig}") from None

    def _check_version(self, connection: Connection, scripts: ScriptDirectory) -> None:
        known = {each.revision for each in scripts.walk_revisions()}
        strange = set(MigrationContext.configure(connection).get_current_heads()) - known
        if strange:
            raise BadConfiguration(
                f"the database {self.name} has the form {min(strange)}, which this version does not know; "
                "run the newer hone-api that made it, or name another database"
            )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """What it sees is of one moment; what it changes is lost."""
        with Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """All of its changes happen, or none. One at a time with SQLite, so no work is done in it."""
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @property
    def name(self) -> str:
        """Its URL without the password."""
        return self._url.render_as_string()

    def close(self) -> None:
        self._engine.dispose()


def _make_private(file: str) -> None:
    """What SQLite lays beside it has the same mode. What cannot be made, SQLite says of itself."""
    with suppress(OSError):
        if file and not file.startswith((":", "file:")):
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by itself, and too late.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # Whoever reads first and writes then would find that another has written in between.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
