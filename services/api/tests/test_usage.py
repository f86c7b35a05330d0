"""What keys have used: in the database, in `/metrics`, and as `hone-api usage` prints it."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_serving_app import ASK, BASE, TUNED, ServingApp, tuned_app
from api_upstream import StandIn
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from hone_api import __main__ as command
from hone_api.database.tables import Key, Used
from hone_api.keys import digest
from hone_api.metering import usage
from hone_api.metering.tokens import Tokens
from hone_api.metering.usage import DAY, Usage, kind_of
from hone_api.settings import Settings
from hone_contract.errors import BadConfiguration

SINCE = 20_000 * DAY
"""A day of 2024."""


@pytest.fixture
def empty(app: ServingApp, monkeypatch: pytest.MonkeyPatch) -> ServingApp:
    # Its tables are there without a migration, which commands would run.
    monkeypatch.setattr(command, "_database", lambda _: app.database)
    with app.database.writing() as session:
        session.execute(delete(Used))
    app.app.state.usage._take()
    return app


def test_every_kind_of_answer_is_counted(empty: ServingApp) -> None:
    key = empty.key()
    client, told = empty.client(key), {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    details = {
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    client.chat.completions.create(model=TUNED, messages=ASK)
    list(client.chat.completions.create(model=TUNED, messages=ASK, stream=True))
    list(client.completions.create(model=TUNED, prompt="Count", stream=True))
    wish: Any = {"stand_in": {"usage": told | details}}
    client.responses.with_raw_response.create(model=TUNED, input="Count", extra_body=wish)
    for _ in client.responses.create(model=TUNED, input="Count", stream=True, extra_body=wish):
        pass
    client.chat.completions.create(model=BASE, messages=ASK)
    with pytest.raises(Exception, match="status 400"):
        client.chat.completions.create(model=BASE, messages=ASK, extra_body={"stand_in": {"status": 400}})
    empty.app.state.usage.write_rest()
    found = {(each.key_id, each.model): _counts(each) for each in _rows(empty)}
    key_id = _id(empty, key)
    assert found == {(key_id, TUNED): (5, 15, 20), (key_id, BASE): (1, 3, 4)}
    figures = httpx.get(f"{empty.url}/metrics").text
    for name, base, tuned in (
        ("model_requests", 1, 5),
        ("prompt_tokens", 3, 15),
        ("completion_tokens", 4, 20),
    ):
        assert f'hone_api_{name}_total{{key="{key_id}",model="{BASE}"}} {base}.0' in figures
        assert f'hone_api_{name}_total{{key="{key_id}",model="ft:{BASE}"}} {tuned}.0' in figures
    assert TUNED not in figures and key not in figures


def test_what_comes_later_is_added(empty: ServingApp) -> None:
    key_id, here = _id(empty, empty.key()), empty.app.state.usage
    for tokens in ((1, 2), (10, 20)):
        here.add(key_id, "a", Tokens(*tokens))
        here.write_rest()
    [row] = _rows(empty)
    assert _counts(row) == (2, 11, 22)
    assert row.day % DAY == 0 and row.day == int(datetime.now(UTC).timestamp()) // DAY * DAY


def test_it_is_written_beside_the_requests_and_at_the_end(
    upstream: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_EVERY", 60)
    database = f"sqlite:///{tmp_path / 'hone-api.db'}"
    with tuned_app(upstream.url, tmp_path, database) as here:
        here.client().chat.completions.create(model=BASE, messages=ASK)
        assert _rows(here) == []
    assert [_counts(each) for each in _rows(here)] == [(1, 3, 4)]


def test_what_the_database_does_not_take_is_kept(empty: ServingApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_EVERY", 0.02)
    key_id, taken, write = _id(empty, empty.key()), [], usage._write

    def fails_once(*arguments: Any) -> None:
        taken.append(arguments)
        if len(taken) == 1:
            raise OperationalError("", {}, Exception("down"))
        write(*arguments)

    monkeypatch.setattr(usage, "_write", fails_once)
    here = Usage(empty.settings, empty.database, empty.app.state.services.reporter)

    async def live() -> None:
        async with here.recording():
            here.add(key_id, "a", Tokens(1, 2))
            while not taken:
                await asyncio.sleep(0.005)
            here.add(key_id, "a", Tokens(1, 2))

    asyncio.run(live())
    assert [_counts(each) for each in _rows(empty)] == [(2, 2, 4)] and len(taken) == 2
    assert "usage_not_written" in empty.log.read_text(encoding="utf-8")


def test_the_command_prints_what_is_asked_for(empty: ServingApp, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = _id(empty, empty.key("one")), _id(empty, empty.key("other"))
    with empty.database.writing() as session:
        for at, key_id in enumerate((ours, theirs, ours)):
            counts = {"requests": at + 1, "prompt_tokens": 1000, "completion_tokens": 20}
            session.add(Used(day=SINCE + at * DAY, key_id=key_id, model="m", **counts))

    def printed(*words: str) -> str:
        options = command._parser().parse_args(["usage", *words])
        options.act(options, empty.settings)
        return capsys.readouterr().out

    assert [line.split() for line in printed().splitlines()] == [
        ["day", "project", "key", "model", "requests", "prompt_tokens", "completion_tokens"],
        ["2024-10-04", "one", ours, "m", "1", "1000", "20"],
        ["2024-10-05", "other", theirs, "m", "2", "1000", "20"],
        ["2024-10-06", "one", ours, "m", "3", "1000", "20"],
    ]
    for words, requests in (
        (("--project", "one"), [1, 3]),
        (("--key", theirs), [2]),
        (("--since", "2024-10-05", "--project", "one"), [3]),
        (("--since", "2025-10-05"), []),
    ):
        assert [each["requests"] for each in json.loads(printed("--json", *words))] == requests
    assert printed("--since", "2025-10-05") == ""
    for words, message in (
        (("--project", "none"), "no project is called"),
        (("--key", "none"), "no key has the id"),
    ):
        with pytest.raises(BadConfiguration, match=message):
            printed(*words)
    with pytest.raises(SystemExit, match="78"):
        printed("--since", "today")
    assert "'today' is no day; write it as 2026-01-31" in capsys.readouterr().err


def test_a_keys_limits_are_given_shown_and_changed(
    empty: ServingApp, capsys: pytest.CaptureFixture[str]
) -> None:
    def done(*words: str) -> str:
        options = command._parser().parse_args(["keys", *words])
        options.act(options, empty.settings)
        return capsys.readouterr().out

    def shown(key_id: str) -> str:
        [line] = [line for line in done("list").splitlines() if line.startswith(key_id)]
        return line.partition("files,tune")[2]

    key = done("create", "--requests-per-minute", "60", "--scopes", "files,tune").strip()
    key_id = _id(empty, key)
    assert shown(key_id) == "  requests/min: 60"
    assert done("limit", key_id, "--tokens-per-minute", "none") == ""
    assert shown(key_id) == "  requests/min: 60  tokens/min: none"
    caller = empty.app.state.keys.caller(key)
    assert (caller.requests_per_minute, caller.tokens_per_minute) == (60, 0)
    done("limit", key_id, "--tokens-per-minute", "default", "--requests-per-minute", "7")
    assert shown(key_id) == "  requests/min: 7"
    for words, message in (
        (("limit", key_id), "say --requests-per-minute"),
        (("limit", "none", "--requests-per-minute", "7"), "no key has the id 'none'"),
    ):
        with pytest.raises(BadConfiguration, match=message):
            done(*words)
    with pytest.raises(SystemExit, match="78"):
        done("limit", key_id, "--requests-per-minute", "0")
    assert "'0' is no limit; say a whole number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a", "a"),
        ("published", "published"),
        ("ft:a:hone:x:1", "ft:a"),
        ("ft:a:b:hone:x:1:ckpt-step-3", "ft:a:b"),
        ("ft:gone:hone:x:1", "other"),
        ("what", "other"),
    ],
)
def test_metrics_know_the_settings_names_alone(name: str, kind: str) -> None:
    told = {
        "models": {"a": {"base": "demo:a"}, "a:b": {"base": "demo:b"}},
        "servers": [{"url": "http://a:1", "model": "published"}],
    }
    assert kind_of(Settings.model_validate(told), name) == kind


def test_metrics_have_no_more_lines_than_may_be(monkeypatch: pytest.MonkeyPatch, empty: ServingApp) -> None:
    monkeypatch.setattr(usage, "_MOST_LABELS", 2)
    here = Usage(empty.settings, empty.database, empty.app.state.services.reporter)
    told = [here._label(f"key_{number}", BASE) for number in (1, 2, 3, 1)]
    assert told == [("key_1", BASE), ("key_2", BASE), ("other", "other"), ("key_1", BASE)]


def _rows(here: ServingApp) -> list[Used]:
    with here.database.reading() as session:
        return [*session.scalars(select(Used).order_by(Used.key_id, Used.model))]


def _counts(row: Used) -> tuple[int, int, int]:
    return row.requests, row.prompt_tokens, row.completion_tokens


def _id(here: ServingApp, key: str) -> str:
    with here.database.reading() as session:
        return session.scalars(select(Key.id).where(Key.digest == digest(key))).one()
