"""The tables as the migrations make them, whoever makes them, however often and at the same time."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from api_app import running_api
from api_postgres import Server
from sqlalchemy import Connection, create_engine, inspect, text

from hone_api.database.session import Database
from hone_api.database.tables import Table
from hone_api.keys import create_key, find_caller
from hone_contract.errors import BadConfiguration, RetryableFailure

New = Callable[[], str]


def upgrade(url: str) -> None:
    database = Database(url)
    database.upgrade()
    database.close()


def asked(url: str, ask: Callable[[Connection], Any]) -> Any:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            return ask(connection)
    finally:
        engine.dispose()


def begin(url: str, folder: Path) -> "subprocess.Popen[str]":
    """A command, which upgrades before all else."""
    return subprocess.Popen(
        [sys.executable, "-m", "hone_api", "keys", "list"],
        env={**os.environ, "HONE_API_DATABASE": url, "HONE_API_DATA": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_migrations_make_what_the_tables_say(new_database: New) -> None:
    url = new_database()
    upgrade(url)

    def differences(connection: Connection) -> Any:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Table.metadata)

    assert asked(url, differences) == []


def test_foreign_keys_and_indexes_are_there_under_their_names(new_database: New) -> None:
    url = new_database()
    upgrade(url)

    def indexes(connection: Connection) -> set[str | None]:
        looking = inspect(connection)
        return {each["name"] for name in looking.get_table_names() for each in looking.get_indexes(name)}

    wanted = {index.name for table in Table.metadata.tables.values() for index in table.indexes}
    assert wanted <= asked(url, indexes)


def test_upgrading_again_changes_nothing(new_database: New) -> None:
    url = new_database()
    upgrade(url)
    database = Database(url)
    with database.writing() as session:
        key = create_key(session, "one", ["files"])
    database.upgrade()
    database.upgrade()
    with database.reading() as session:
        caller = find_caller(session, key)
    database.close()
    assert caller is not None and caller.project == "one"


@pytest.mark.chain
def test_several_that_upgrade_at_once_do_not_collide(new_database: New, tmp_path: Path) -> None:
    """It is the first one's tables that the others find, whoever that is."""
    url = new_database()
    begun = [begin(url, tmp_path) for _ in range(4)]
    ended = [(*each.communicate(timeout=120), each.returncode) for each in begun]
    assert ended == [("", "", 0)] * 4


def newer(url: str) -> str:
    upgrade(url)
    asked(url, lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    return url


def test_what_a_newer_version_made_is_refused(new_database: New) -> None:
    with pytest.raises(BadConfiguration, match="has the form 9999, which this version does not know"):
        upgrade(newer(new_database()))


@pytest.mark.chain
def test_that_refusal_is_one_line(new_database: New, tmp_path: Path) -> None:
    command = begin(newer(new_database()), tmp_path)
    _, told = command.communicate(timeout=120)
    assert command.returncode == 78
    assert told.count("\n") == 1 and told.startswith("error: the database ")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hone-api.db").write_bytes(b"What is this?" * 1000)
    with pytest.raises(BadConfiguration, match="file is not a database"):
        upgrade(f"sqlite:///{tmp_path / 'hone-api.db'}")


def test_a_server_that_is_not_there_may_come(tmp_path: Path) -> None:
    with pytest.raises(RetryableFailure, match="No such file or directory") as refused:
        upgrade(f"postgresql+psycopg://hone:secret@/hone?host={tmp_path}")
    assert "secret" not in str(refused.value)


@pytest.mark.chain
def test_a_server_that_goes_away_is_waited_for(postgres: Server, tmp_path: Path) -> None:
    with postgres.database() as url, running_api(tmp_path, database=url) as api:
        key = {"Authorization": f"Bearer {api.key()}"}
        assert httpx.get(f"{api.url}/v1/files", headers=key).status_code == 200
        postgres.drop(url)
        for path in ("/ready", "/v1/files"):
            told = httpx.get(api.url + path, headers={"Authorization": "Bearer hone-other"})
            assert (told.status_code, told.headers["retry-after"]) == (503, "5"), told.text
            assert told.json()["error"]["message"] == "The database does not answer"
        assert "does not exist" in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("url", ["mysql://host/name", "what", "oracle+cx://x"])
def test_an_unknown_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(BadConfiguration, match="sqlite"):
        Database(url)
