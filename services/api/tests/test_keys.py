"""Keys as the operator makes, lists and revokes them; and what of them is ever written down."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from api_app import running_api, wait_until
from sqlalchemy import select, text
from sqlalchemy.exc import DatabaseError

from hone_api import access
from hone_api.access import KeyRing
from hone_api.database.session import Database
from hone_api.database.tables import Key, Project, Table
from hone_api.keys import Caller, create_key, digest, revoke_key
from hone_api.launcher.environment import without_secrets
from hone_contract.errors import BadConfiguration

New = Callable[[], str]


@dataclass(frozen=True)
class Commands:
    """`hone-api keys …` on one database."""

    url: str
    folder: Path

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """What it says on its output, and beside it."""
        done = subprocess.run(
            [sys.executable, "-m", "hone_api", "keys", *arguments],
            env={**os.environ, "HONE_API_DATABASE": self.url, "HONE_API_DATA": str(self.folder / "data")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    def written(self) -> bytes:
        """All that the database holds: its file, and the values of every column."""
        database = Database(self.url)
        told = []
        with database.reading() as session:
            for table in Table.metadata.sorted_tables:
                told += [repr(row) for row in session.execute(select(table))]
        database.close()
        files = list(Path(self.url.removeprefix("sqlite:///")).parent.glob("hone-api.db*"))
        return "\n".join(told).encode() + b"".join(each.read_bytes() for each in files)


@pytest.fixture
def commands(new_database: New, tmp_path: Path) -> Commands:
    return Commands(new_database(), tmp_path)


@pytest.fixture
def database(new_database: New) -> Iterator[Database]:
    made = Database(new_database())
    made.upgrade()
    yield made
    made.close()


@pytest.mark.chain
def test_a_key_is_made_listed_used_and_revoked(commands: Commands) -> None:
    told, beside = commands.run("create", "--project", "red team", "--scopes", "tune,files")
    secret = told.strip()
    assert (told, beside) == (f"{secret}\n", "") and secret.startswith("hone-") and len(secret) >= 48
    listed, _ = commands.run("list")
    key_id, hint, state, *rest = listed.split()
    assert secret not in listed and secret.startswith(hint.rstrip("…")) and len(hint) <= 10
    project = rest.pop(2)
    assert (state, rest, project[:5]) == ("valid", ["red", "team", "files,tune"], "proj_")
    with running_api(commands.folder, database=commands.url) as api:
        headers = {"Authorization": f"Bearer {secret}"}

        def status() -> int:
            return httpx.get(f"{api.url}/v1/files", headers=headers).status_code

        assert status() == 200
        assert commands.run("revoke", key_id) == ("", "")
        begun = time.monotonic()
        wait_until(lambda: status() == 401)
        assert time.monotonic() - begun < access._REMEMBERED + 5
    assert commands.run("list")[0].split()[2] == "revoked"
    written = commands.written()
    assert secret.encode() not in written and secret[9:].encode() not in written
    assert repr(digest(secret)).encode() in written


@pytest.mark.chain
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "--scopes", "files,root"), "error: scope 'root': there are files, tune, chat, admin\n"),
        (("create", "--scopes", ""), "error: scope '': there are files, tune, chat, admin\n"),
        (("create", "--project", " "), "error: project ' ': a name has 1 to 64 letters that can be read\n"),
        (("create", "--project", "a\nb"), "error: project 'a\\nb': a name has 1 to 64 letters"),
        (("create", "--project", "\udcff"), "error: project '\\udcff': a name has 1 to 64 letters"),
        (("revoke", "key_none"), "error: no key has the id 'key_none'; `hone-api keys list` shows them\n"),
        (("revoke",), "the following arguments are required: id"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_what_is_wrong_is_one_line_and_makes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    commands = Commands(f"sqlite:///{tmp_path / 'hone-api.db'}", tmp_path)
    output, beside = commands.run(*arguments, code=78)
    assert output == "" and told in beside and beside.count("\n") == 1
    assert commands.run("list") == ("", "")


def test_only_a_digest_is_kept(database: Database) -> None:
    with database.writing() as session:
        secret = create_key(session, "one", ["files"])
    with database.reading() as session:
        [key] = session.scalars(select(Key))
    assert key.digest == digest(secret) and len(key.digest) == 32
    # Four letters of 43 are for people; there are 2^234 keys with the same.
    assert key.hint == secret[:9] and secret not in repr(vars(key))


def test_an_error_of_the_database_tells_no_values(database: Database) -> None:
    with pytest.raises(DatabaseError) as failed, database.reading() as session:
        session.execute(text("SELECT 1 FROM nowhere WHERE x = :secret"), {"secret": "of-a-client"})
    assert "nowhere" in str(failed.value) and "of-a-client" not in str(failed.value)


def test_no_stage_inherits_what_looks_like_a_secret() -> None:
    secret = (
        "SENTRY_DSN",
        "DSN",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GITHUB_PAT",
        "MY_DATABASE_URL",
        "DB_PASS",
    )
    plain = ("PATH", "PWD", "OLDPWD", "HTTP_PROXY", "COMPASS", "HF_TOKEN")
    assert without_secrets(dict.fromkeys((*secret, *plain), "1")).keys() == set(plain)


def test_a_revoked_key_is_out_after_so_many_seconds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access._REMEMBERED <= 5
    monkeypatch.setattr(access, "_REMEMBERED", 0.3)
    with database.writing() as session:
        secret = create_key(session, "one", ["admin"])
    ring = KeyRing(database)
    assert ring.caller(secret) is not None
    with database.writing() as session:
        revoke_key(session, session.scalars(select(Key.id)).one())
    time.sleep(0.3)
    assert ring.caller(secret) is None
    assert KeyRing(database).caller(secret) is None


def test_a_wrong_key_is_not_remembered(database: Database) -> None:
    ring = KeyRing(database)
    for number in range(100):
        assert ring.caller(f"hone-{number}") is None
    assert ring.caller("") is None and ring.caller("\udcff\0") is None
    assert ring._known == {}


def test_a_scope_opens_itself_and_admin_all() -> None:
    caller = Caller("key_1", "proj_1", "one", frozenset({"files"}))
    assert [caller.may(scope) for scope in ("files", "tune", "chat", "admin")] == [True, False, False, False]
    admin = Caller("key_1", "proj_1", "one", frozenset({"admin"}))
    assert all(admin.may(scope) for scope in ("files", "tune", "chat", "admin"))


def test_two_that_make_a_projects_first_key_at_once_make_one_project(database: Database) -> None:
    together = threading.Barrier(4)

    def create(_: int) -> str:
        together.wait()
        with database.writing() as session:
            return create_key(session, "one", ["files"])

    with ThreadPoolExecutor(4) as pool:
        secrets = set(pool.map(create, range(4)))
    with database.reading() as session:
        assert len(session.scalars(select(Project)).all()) == 1
        assert len(secrets) == len(session.scalars(select(Key)).all()) == 4


@pytest.mark.parametrize("project", ["", " ", "x" * 65, "a\0b", "\ud800"])
def test_a_project_has_a_name_that_can_be_read(database: Database, project: str) -> None:
    with pytest.raises(BadConfiguration, match="a name has"), database.writing() as session:
        create_key(session, project, ["files"])
