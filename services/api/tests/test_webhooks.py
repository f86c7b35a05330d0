"""Webhooks from a job's end to its receiver, and through everything that may happen on the way."""

import json
import random
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_process import examples, running_api, upload, wait_for
from api_receiver import Receiver, receiving, status
from openai import InvalidWebhookSignatureError, OpenAI
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from hone_api import metrics
from hone_api.database.session import Database
from hone_api.database.tables import Event, Job, Project
from hone_api.database.webhooks import Delivery, Webhook
from hone_api.errors import ApiError
from hone_api.jobs import states
from hone_api.settings import Webhooks
from hone_api.webhooks import loop as loop_module
from hone_api.webhooks.addresses import resolve
from hone_api.webhooks.delivering import MOST_ATTEMPTS, Deliverer, wait_seconds
from hone_api.webhooks.endpoints import Shown, create_webhook, delete_webhook, list_webhooks
from hone_api.webhooks.loop import Loop
from hone_api.webhooks.outbox import EVENTS
from hone_api.webhooks.sending import Outcome, Post
from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter

RULES = Webhooks(allow_http=True, allow_loopback=True)
URL = "https://hooks.example/a?token=secret"
DAY = 24 * 3600
DONE = Outcome("HTTP 204", is_delivered=True)


class Killed(BaseException):
    """What a kill -9 looks like from within."""


@dataclass
class Hooks:
    """One project's job ends, one deliverer, and a clock that a test sets."""

    database: Database
    log: Path
    now: float = field(default_factory=lambda: float(int(time.time()) + 60))
    """Later than any job of the test ends, so that what it tells is due."""
    sent: list[tuple[str, str]] = field(default_factory=list)
    """`webhook-id` and URL of each attempt."""
    outcome: Outcome | type[BaseException] = DONE
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def send(self, url: str, headers: Any, _: str) -> Outcome:
        self.sent.append((headers["webhook-id"], url))
        if isinstance(self.outcome, Outcome):
            return self.outcome
        raise self.outcome

    def deliverer(self, send: Any = None) -> Deliverer:
        """A new one, as after a restart."""
        reporter = Reporter("api", self.log)
        return Deliverer(self.database, reporter, send or self.send, lambda: self.now, self.chance)

    def create(self, url: str = URL, *events: str, project: str = "one") -> Webhook:
        with self.database.writing() as session:
            return create_webhook(session, project, url, events, RULES)

    def end_job(self, to: str = states.SUCCEEDED, project: str = "one") -> str:
        """As the loop and the routes do it."""
        with self.database.writing() as session:
            job = new_job(session.scalars(select(Project.id).where(Project.name == project)).one())
            session.add(job)
            session.flush()
            states.move(session, job, to, "It has ended")
        return job.id

    def look(self, send: Any = None) -> None:
        """All that is due now, once."""
        loop = Loop(self.deliverer(send))
        loop.look()
        loop.join(20)

    def rows(self) -> list[Delivery]:
        with self.database.reading() as session:
            return [*session.scalars(select(Delivery).order_by(Delivery.number))]

    def row(self) -> Delivery:
        [row] = self.rows()
        return row

    def shown(self) -> list[Shown]:
        with self.database.reading() as session:
            return [*list_webhooks(session)]


def new_job(project_id: str) -> Job:
    """Only what its end needs of one is true of it."""
    neutral: dict[type, Any] = {str: "", int: 0, dict: {}, list: [], object: {}}
    needed = [column for column in Job.__table__.columns if not column.nullable and not column.primary_key]
    said = {"id": f"ftjob-{random.randrange(10**12)}", "project_id": project_id, "status": states.RUNNING}
    return Job(**{column.name: neutral[column.type.python_type] for column in needed} | said)


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.upgrade()
    with database.writing() as session:
        session.add_all(Project(id=f"proj_{name}", name=name, created_at=1) for name in ("one", "two"))
    yield database
    database.close()


@pytest.fixture
def hooks(database: Database, tmp_path: Path) -> Hooks:
    with database.writing() as session:
        for table in (Delivery, Webhook, Event, Job):
            session.execute(delete(table))
    return Hooks(database, tmp_path / "log.jsonl")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def attempts(result: str) -> float:
    return float(metrics.WEBHOOK_ATTEMPTS.labels(result)._value.get())


# -- what is told ------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [states.SUCCEEDED, states.FAILED, states.CANCELLED])
def test_the_sdk_verifies_what_arrives(hooks: Hooks, receiver: Receiver, to: str) -> None:
    receiver.got.clear()
    receiver.answer = status(204)
    webhook = hooks.create(receiver.url)
    job_id = hooks.end_job(to)
    before = attempts("delivered")
    hooks.look(Post(RULES, resolve, ssl.create_default_context()))
    [(path, headers, body)] = receiver.got
    client = OpenAI(api_key="none")
    event = client.webhooks.unwrap(body, headers, secret=webhook.secret)
    assert (event.type, event.data.id, event.object) == (f"fine_tuning.job.{to}", job_id, "event")
    assert event.id.startswith("evt_") and abs(event.created_at - time.time()) < 60
    assert path == "/hooks?token=secret"
    assert (headers["webhook-id"], hooks.row().status) == (hooks.row().id, "delivered")
    assert attempts("delivered") == before + 1
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret=hooks.create().secret)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(job_id, "ftjob-other"), headers, secret=webhook.secret)


def test_only_those_are_told_who_want_to_hear_it(hooks: Hooks) -> None:
    failures = hooks.create("https://failures.example/", EVENTS[1])
    every = hooks.create("https://all.example/")
    hooks.create("https://theirs.example/", project="two")
    hooks.end_job(states.SUCCEEDED)
    assert [row.webhook_id for row in hooks.rows()] == [every.id]
    hooks.end_job(states.FAILED)
    told = {row.webhook_id: json.loads(row.body)["id"] for row in hooks.rows()[1:]}
    # One event, and a delivery of its own for each.
    assert told.keys() == {failures.id, every.id} and len(set(told.values())) == 1
    hooks.look()
    assert len({name for name, _ in hooks.sent}) == 3
    assert not any("theirs" in url for _, url in hooks.sent)


def test_what_is_rolled_back_is_not_told(hooks: Hooks) -> None:
    hooks.create()
    with pytest.raises(ApiError), hooks.database.writing() as session:
        job = new_job("proj_one")
        session.add(job)
        session.flush()
        states.move(session, job, states.FAILED, "It has ended")
        states.move(session, job, states.SUCCEEDED, "It cannot")
    assert hooks.rows() == []


def test_a_pause_is_no_end(hooks: Hooks) -> None:
    hooks.create()
    hooks.end_job(states.PAUSED)
    assert hooks.rows() == []


# -- attempts ----------------------------------------------------------------------------------------


def test_an_attempt_that_failed_is_made_again_later_and_later_for_three_days(hooks: Hooks) -> None:
    hooks.create()
    hooks.end_job()
    hooks.outcome = Outcome("HTTP 503")
    begun, waits = hooks.now, []
    while hooks.row().status == "pending":
        before, row = len(hooks.sent), hooks.row()
        hooks.now = max(hooks.now, row.not_before) - 1
        if before:
            hooks.look()
        assert len(hooks.sent) == before
        hooks.now += 1
        hooks.look()
        assert (len(hooks.sent), hooks.row().attempts) == (before + 1, before + 1)
        waits.append(hooks.row().not_before - hooks.now)
    assert len(hooks.sent) == MOST_ATTEMPTS and len({name for name, _ in hooks.sent}) == 1
    assert 2 * DAY < hooks.now - begun < 4 * DAY
    for count, wait in enumerate(waits):
        assert 0.8 * 30 * 2**count - 1 <= wait <= 1.2 * 30 * 2**count
    # No wait is exactly what it would be without chance.
    assert len({round(wait / 2**count) for count, wait in enumerate(waits)}) > 3
    assert (hooks.row().status, hooks.row().ended_at, hooks.row().outcome) == (
        "given_up",
        int(hooks.now),
        "HTTP 503",
    )
    hooks.now += 30 * DAY
    hooks.look()
    assert len(hooks.sent) == MOST_ATTEMPTS


def test_no_attempt_can_meet_the_next_one() -> None:
    longest = Webhooks.model_fields["timeout_seconds"].metadata[1].le
    assert min(wait_seconds(1, random.Random(seed)) for seed in range(1000)) > longest


def test_a_receiver_that_comes_back_gets_it_under_the_same_id(hooks: Hooks) -> None:
    hooks.create()
    hooks.end_job()
    for outcome in (Outcome("HTTP 500"), Outcome("cannot connect: no"), hooks.outcome, hooks.outcome):
        hooks.outcome = outcome
        hooks.look()
        hooks.now += DAY
    assert len(hooks.sent) == 3 and len({name for name, _ in hooks.sent}) == 1
    assert hooks.row().status == "delivered"


@pytest.mark.parametrize("step", ["begin", "send", "sent", "end"])
def test_a_kill_between_two_steps_loses_nothing(hooks: Hooks, step: str) -> None:
    """Killed before the request leaves, it is sent once; after it and before that is written down, twice with
    the same id: which of the two it was, nobody can know afterwards."""
    hooks.create()
    hooks.end_job()
    killed = hooks.deliverer()
    attempt = killed.begin(hooks.row().number) if step != "begin" else None
    if step in ("sent", "end"):
        assert attempt is not None
        outcome = hooks.send(attempt.url, {"webhook-id": attempt.delivery_id}, attempt.body)
        if step == "end":
            killed.end(attempt, outcome)
    # The one that comes after it does nothing too early.
    hooks.look()
    assert len(hooks.sent) == {"begin": 1, "send": 0, "sent": 1, "end": 1}[step]
    hooks.now += 36
    hooks.look()
    assert len(hooks.sent) == {"begin": 1, "send": 1, "sent": 2, "end": 1}[step]
    assert len({name for name, _ in hooks.sent}) == 1
    assert hooks.row().status == "delivered"
    hooks.now += 30 * DAY
    hooks.look()
    assert len(hooks.sent) <= 2


def test_kills_count_as_attempts(hooks: Hooks) -> None:
    """A receiver that brings the api down is not asked for ever."""
    hooks.create()
    hooks.end_job()
    hooks.outcome = Killed
    for _ in range(MOST_ATTEMPTS + 3):
        try:
            hooks.deliverer().deliver(hooks.row().number)
        except Killed:
            pass
        hooks.now = max(hooks.now, hooks.row().not_before)
    assert (len(hooks.sent), hooks.row().status) == (MOST_ATTEMPTS, "given_up")


# -- webhooks come and go ----------------------------------------------------------------------------


def test_a_webhook_that_is_deleted_gets_nothing_more(hooks: Hooks) -> None:
    kept, gone = hooks.create("https://kept.example/"), hooks.create("https://gone.example/")
    hooks.end_job()
    attempt = hooks.deliverer().begin(hooks.rows()[1].number)
    with hooks.database.writing() as session:
        delete_webhook(session, gone.id)
    assert attempt is not None
    hooks.deliverer().end(attempt, Outcome("HTTP 410", is_gone=True))
    hooks.end_job()
    hooks.now += DAY
    hooks.look()
    assert [row.webhook_id for row in hooks.rows()] == [kept.id] * 2
    assert {url for _, url in hooks.sent} == {"https://kept.example/"}
    with pytest.raises(BadConfiguration, match="no webhook has the id"), hooks.database.writing() as session:
        delete_webhook(session, gone.id)


def test_a_receiver_that_is_gone_for_good_disables_its_webhook(hooks: Hooks) -> None:
    hooks.create()
    hooks.end_job()
    hooks.end_job()
    hooks.outcome = Outcome("HTTP 410", is_gone=True)
    hooks.deliverer().deliver(hooks.rows()[0].number)
    hooks.end_job()
    hooks.now += DAY
    hooks.look()
    assert len(hooks.sent) == 1
    assert [row.status for row in hooks.rows()] == ["given_up"] * 2
    assert hooks.shown()[0].webhook.disabled_at is not None


def test_what_is_listed_has_no_secret(hooks: Hooks) -> None:
    webhook = hooks.create()
    hooks.end_job()
    hooks.outcome = Outcome("HTTP 503")
    hooks.look()
    [shown] = hooks.shown()
    assert (shown.project, shown.url, shown.pending, shown.outcome) == (
        "one",
        "https://hooks.example/a",
        1,
        "HTTP 503",
    )
    log = hooks.log.read_text()
    assert '"webhook_failed"' in log and "hooks.example" in log
    assert webhook.secret not in log and "token" not in log and "/a" not in log


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://a.example/", "https is wanted"),
        ("ftp://a.example/", "https is wanted"),
        ("a.example", "no scheme"),
        ("https:///path", "names a host"),
        ("https://user:password@a.example/", "names a host"),
        ("https://a.example/#part", "names a host"),
        (f"https://a.example/{'a' * 2048}", "at most 2048 letters"),
        ("https://a.example:port/", "cannot be read"),
        ("https://127.0.0.1/", "address 127.0.0.1 is not allowed"),
        ("https://[::ffff:7f00:1]/", "is not allowed"),
        ("https://2130706433/", "address 127.0.0.1 is not allowed"),
        ("https://169.254.169.254/latest", "is not allowed"),
    ],
)
def test_a_url_to_which_nothing_may_go_is_refused(hooks: Hooks, url: str, told: str) -> None:
    with pytest.raises(BadConfiguration, match=told) as refused, hooks.database.writing() as session:
        create_webhook(session, "one", url, [], Webhooks())
    assert "password" not in str(refused.value).replace("has no password", "")


def test_projects_and_events_that_there_are_not_are_refused(hooks: Hooks) -> None:
    with pytest.raises(BadConfiguration, match="no project has the name 'tow'"):
        hooks.create(project="tow")
    with pytest.raises(BadConfiguration, match=r"event 'batch\.completed': there are fine_tuning"):
        hooks.create(URL, "batch.completed")


# -- the loop ----------------------------------------------------------------------------------------


def test_a_receiver_that_does_not_answer_holds_up_no_other(hooks: Hooks) -> None:
    slow, quick = hooks.create("https://slow.example/"), hooks.create("https://quick.example/")
    for _ in range(5):
        hooks.end_job()
    let_go = threading.Event()

    def send(url: str, headers: Any, body: str) -> Outcome:
        assert "quick" in url or let_go.wait(20)
        return hooks.send(url, headers, body)

    loop = Loop(hooks.deliverer(send))

    def delivered(webhook: Webhook) -> int:
        return sum(row.webhook_id == webhook.id and row.status == "delivered" for row in hooks.rows())

    def begun() -> list[int]:
        loop.look()
        return [row.attempts for row in hooks.rows() if row.webhook_id == slow.id]

    # Two of the slow one are under way, and the others do not begin.
    wait_for(lambda: begun() == [1, 1, 0, 0, 0] and delivered(quick) == 5, "what is quick", 20)
    assert (begun(), delivered(slow)) == ([1, 1, 0, 0, 0], 0)
    assert metrics.WEBHOOKS_PENDING._value.get() >= 5
    let_go.set()
    loop.join(20)
    assert delivered(slow) == 2


def test_silent_receivers_leave_a_thread_to_whoever_has_none(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_THREADS", 3)
    silent = [hooks.create(f"https://silent-{count}.example/") for count in range(2)]
    for _ in range(3):
        hooks.end_job()
    last = hooks.create("https://last.example/")
    hooks.end_job()
    let_go = threading.Event()

    def send(url: str, headers: Any, body: str) -> Outcome:
        assert let_go.wait(20)
        return hooks.send(url, headers, body)

    loop = Loop(hooks.deliverer(send))

    def begun() -> list[str]:
        return [row.webhook_id for row in hooks.rows() if row.attempts]

    loop.look()
    wait_for(lambda: len(begun()) == 3, "what begins", 20)
    # What is due first is of the silent ones, and still each has one.
    assert set(begun()) == {*(webhook.id for webhook in silent), last.id}
    let_go.set()
    loop.join(20)


def test_whoever_had_no_attempt_for_longest_is_next(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_THREADS", 1)
    for count in range(3):
        hooks.create(f"https://{count}.example/")
    hooks.end_job()
    hooks.end_job()
    loop = Loop(hooks.deliverer())
    for _ in range(6):
        loop.look()
        loop.join(20)
    order = [url for _, url in hooks.sent]
    assert len(set(order[:3])) == 3 and order[:3] == order[3:]


def test_a_database_that_cannot_be_written_is_asked_again_at_the_usual_time(hooks: Hooks) -> None:
    hooks.create()
    hooks.end_job()
    deliverer = hooks.deliverer()

    def refused(_: int) -> None:
        raise OperationalError("update", {}, Exception("read-only"))

    loop = Loop(deliverer)
    object.__setattr__(deliverer, "deliver", refused)
    loop.look()
    loop.join(20)
    assert not loop.wake.is_set() and "read-only" in hooks.log.read_text()
    object.__delattr__(deliverer, "deliver")
    loop.look()
    loop.join(20)
    assert loop.wake.is_set() and hooks.row().status == "delivered"


def test_figures_tell_what_waits_and_how_long(hooks: Hooks) -> None:
    hooks.create()
    hooks.end_job()
    hooks.outcome = Outcome("HTTP 503")
    hooks.look()
    hooks.now = hooks.row().created_at + 3600
    hooks.look()
    assert metrics.WEBHOOKS_PENDING._value.get() == 1
    assert metrics.WEBHOOK_OLDEST_SECONDS._value.get() == 3600


def test_old_deliveries_that_have_ended_are_forgotten(hooks: Hooks) -> None:
    hooks.create()
    hooks.end_job()
    hooks.look()
    hooks.outcome = Outcome("HTTP 503")
    hooks.end_job()
    hooks.look()
    hooks.now += 6 * DAY
    hooks.deliverer().clean()
    assert [row.status for row in hooks.rows()] == ["delivered", "pending"]
    hooks.now += 2 * DAY
    hooks.deliverer().clean()
    assert [row.status for row in hooks.rows()] == ["pending"]


@pytest.mark.chain
def test_the_command_tells_of_a_job_although_it_is_killed(tmp_path: Path, receiver: Receiver) -> None:
    receiver.got.clear()
    receiver.answer = status(204)
    rules = {"allow_http": True, "allow_loopback": True}
    with running_api(tmp_path, webhooks=rules) as api:
        secret = api.command("webhooks", "create", "--url", receiver.url, "--event", EVENTS[2])
        listed = api.command("webhooks", "list")
        assert secret.startswith("whsec_") and secret not in listed
        assert "active" in listed and "cancelled  http://127.0.0.1" in listed and "token" not in listed
        client = api.client()
        file_id = upload(client, examples("steps=400 pace=0.1"))
        job = client.fine_tuning.jobs.create(model="stand-in", training_file=file_id)
        client.fine_tuning.jobs.cancel(job.id)
        api.kill()
        api.start()
        wait_for(lambda: "0 pending; last: HTTP 204" in api.command("webhooks", "list"), "the news", 90)
        # Twice at most, if it was killed between the answer and the note of it.
        assert len(set(receiver.ids())) == 1 and len(receiver.got) <= 2
        _, headers, body = receiver.got[-1]
        event = client.webhooks.unwrap(body, headers, secret=secret)
        assert (event.type, event.data.id) == (EVENTS[2], job.id)
        told = httpx.get(f"{api.url}/metrics").text
        assert "hone_api_webhooks_pending 0.0" in told
        api.command("webhooks", "delete", listed.split()[0])
        assert api.command("webhooks", "list") == ""
        assert secret not in api.log and "token" not in api.log
        assert api.end() == 0
