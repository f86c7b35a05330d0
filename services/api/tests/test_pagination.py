"""Long lists by the SDK that checks every answer: each thing once, the newest first."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_app import Api, running_api
from openai import OpenAI
from sqlalchemy import Engine, event, select

from hone_api.database.tables import Checkpoint, Event, File, Job, Label, Project

# Hundreds of jobs and a thousand events are made for it.
pytestmark = pytest.mark.chain

JOBS, EVENTS, FILES, CHECKPOINTS = 250, 1000, 120, 25


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("api"), database=database_url) as running:
        yield running


@pytest.fixture(scope="module")
def made(api: Api) -> dict[str, list[str]]:
    """Ids, the newest first. Those of another project lie between them, and all are of one second."""
    for project in ("one", "other"):
        api.key(project)
    with api.services.database.writing() as session:
        projects = dict(iter(session.execute(select(Project.name, Project.id))))
        jobs = []
        for number in range(JOBS):
            jobs.append(_job(projects["one"], f"ftjob-{number}"))
            session.add(jobs[-1])
            session.add(_job(projects["other"], f"ftjob-other-{number}"))
            session.add(_file(projects["one" if number < FILES else "other"], f"file-{number}"))
        session.flush()
        session.add_all(
            Label(job_number=job.number, key="half", value=str(index % 2)) for index, job in enumerate(jobs)
        )
        for number in range(EVENTS):
            session.add_all(_event(job, f"ftevent-{job.id}-{number}") for job in jobs[:2])
            session.flush()
        session.add_all(_checkpoint(jobs[0], number) for number in range(CHECKPOINTS))
    return {
        "jobs": [job.id for job in jobs][::-1],
        "events": [f"ftevent-ftjob-0-{number}" for number in range(EVENTS)][::-1],
        "files": [f"file-{number}" for number in range(FILES)][::-1],
        "checkpoints": [f"ftckpt-{number}" for number in range(CHECKPOINTS)][::-1],
    }


@pytest.fixture(scope="module")
def client(api: Api, made: Any) -> OpenAI:  # noqa: ARG001 - what is listed must be there
    return api.client(api.key("one"))


def listing(client: Any, what: str, **page: Any) -> Any:
    """The SDK's own way through all pages."""
    jobs = client.fine_tuning.jobs
    return {
        "jobs": lambda: jobs.list(**page),
        "events": lambda: jobs.list_events("ftjob-0", **page),
        "checkpoints": lambda: jobs.checkpoints.list("ftjob-0", **page),
        "files": lambda: client.files.list(**page),
    }[what]()


WHAT = ("jobs", "events", "files", "checkpoints")


@pytest.mark.parametrize(
    ("what", "limit"),
    [(what, limit) for what in WHAT for limit in (None, 100)] + [("checkpoints", 1), ("jobs", 7)],
)
def test_every_one_comes_once_and_the_newest_first(
    client: OpenAI, made: dict[str, list[str]], what: str, limit: int | None
) -> None:
    found = listing(client, what, **({"limit": limit} if limit else {}))
    assert [each.id for each in found] == made[what]


@pytest.mark.parametrize("what", WHAT)
def test_the_asynchronous_sdk_finds_the_same(api: Api, made: dict[str, list[str]], what: str) -> None:
    async def ids() -> list[str]:
        async with api.asynchronous(api.key("one")) as client:
            return [each.id async for each in listing(client, what, limit=100)]

    assert asyncio.run(ids()) == made[what]


@pytest.mark.parametrize("what", WHAT)
def test_has_more_is_right_at_every_border(client: OpenAI, made: dict[str, list[str]], what: str) -> None:
    ids = made[what]
    for begin, limit in ((-1, 1), (-1, 100), (len(ids) - 3, 1), (len(ids) - 3, 2), (len(ids) - 3, 3)):
        after = {"after": ids[begin]} if begin >= 0 else {}
        page = listing(client, what, limit=limit, **after)
        wanted = ids[begin + 1 : begin + 1 + limit]
        assert [each.id for each in page.data] == wanted
        assert page.has_more is (begin + 1 + limit < len(ids))
        assert (page.first_id, page.last_id) == (wanted[0], wanted[-1])
    end = listing(client, what, after=ids[-1])
    assert (end.data, end.has_more, end.first_id, end.last_id) == ([], False, None, None)


def test_a_page_begins_where_it_did_although_more_were_made(api: Api) -> None:
    client = api.client(api.key("growing"))
    with api.services.database.writing() as session:
        project = session.scalars(select(Project.id).where(Project.name == "growing")).one()
        session.add_all(_job(project, f"ftjob-growing-{number}") for number in range(4))
    first = client.fine_tuning.jobs.list(limit=2)
    with api.services.database.writing() as session:
        session.add(_job(project, "ftjob-growing-new"))
    second = client.fine_tuning.jobs.list(limit=2, after=first.data[-1].id)
    found = [each.id for each in (*first.data, *second.data)]
    assert found == [f"ftjob-growing-{number}" for number in (3, 2, 1, 0)]


def test_what_was_chosen_by_metadata_has_pages_too(client: OpenAI, made: dict[str, list[str]]) -> None:
    found = client.fine_tuning.jobs.list(extra_query={"metadata[half]": "0"}, limit=20)
    assert [each.id for each in found] == made["jobs"][1::2]


def test_jobs_are_chosen_by_all_pairs_of_metadata(api: Api, client: OpenAI) -> None:
    with api.services.database.writing() as session:
        found = session.scalars(select(Job.number).where(Job.id.in_(["ftjob-2", "ftjob-3", "ftjob-4"])))
        session.add_all(Label(job_number=number, key="few", value="x") for number in found)

    def ids(**query: str) -> list[str]:
        return [each.id for each in client.fine_tuning.jobs.list(extra_query=query, limit=1)]

    assert ids(**{"metadata[few]": "x"}) == ["ftjob-4", "ftjob-3", "ftjob-2"]
    assert ids(**{"metadata[few]": "x", "metadata[half]": "0"}) == ["ftjob-4", "ftjob-2"]
    assert ids(**{"metadata[few]": "x", "metadata[half]": "2"}) == []
    assert ids(**{"metadata[few]": "x", "metadata": "null"}) == []
    with pytest.raises(openai.BadRequestError, match="at most 16 pairs"):
        ids(**{f"metadata[{number}]": "x" for number in range(17)})


def test_no_request_collects_all_jobs_of_a_project(api: Api, client: OpenAI) -> None:
    """Asked of SQLite, which has no figures of its tables: it decides by their form alone."""
    if not api.services.database.is_sqlite:
        return
    asked: list[tuple[str, Any]] = []
    event.listen(Engine, "before_cursor_execute", listen := lambda *told: asked.append((told[2], told[3])))
    client.fine_tuning.jobs.list(extra_query={"metadata[half]": "0"}, after="ftjob-200", limit=1)
    body = {"model": "none", "training_file": "file-none"}
    for header in ("Idempotency-Key", "x-stainless-retry-count"):
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.create(**body, extra_headers={header: "1"})
    event.remove(Engine, "before_cursor_execute", listen)
    plans = []
    for statement, values in asked:
        if "FROM jobs" in statement and "ORDER BY" in statement:
            with api.services.database._engine.connect() as connection:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                plans.append("; ".join(row[-1] for row in plan))
    assert len(plans) == 3
    for plan in plans:
        assert "TEMP B-TREE" not in plan or "idempotency_key=?" in plan, plans
        assert "jobs_of_project" not in plan, plans


def test_files_are_listed_from_the_oldest_too(client: OpenAI, made: dict[str, list[str]]) -> None:
    assert [each.id for each in client.files.list(order="asc", limit=50)] == made["files"][::-1]


@pytest.mark.parametrize("what", WHAT)
def test_a_limit_out_of_range_is_refused(client: OpenAI, what: str) -> None:
    most = 10_000 if what == "files" else 100
    limits: list[Any] = [0, -1, most + 1, 2**31, 2**63, 10**30, "x", "", "1.5"]
    for limit in limits:
        with pytest.raises(openai.BadRequestError) as refused:
            listing(client, what, limit=limit)
        assert refused.value.param == "limit"


def _job(project_id: str, name: str) -> Job:
    """Only what a list tells of one is true of it."""
    neutral: dict[type, Any] = {str: "", int: 0, object: {}}
    said: dict[str, Any] = {"id": name, "project_id": project_id, "model": "m", "status": "succeeded"}
    said |= {"created_at": 1, "training_file": "file-0", "result_files": [], "integrations": []}
    said["method"] = {"type": "supervised"}
    said["resolved"] = {"n_epochs": 1, "batch_size": 1, "learning_rate_multiplier": 1.0}
    for column in Job.__table__.columns:
        if not column.nullable and not column.primary_key and column.name not in said:
            said[column.name] = neutral[column.type.python_type]
    return Job(**said)


def _event(job: Job, name: str) -> Event:
    told = {"created_at": 1, "level": "info", "message": "Something", "type": "message", "data": {}}
    return Event(id=name, job_number=job.number, **told)


def _checkpoint(job: Job, step: int) -> Checkpoint:
    name = {"id": f"ftckpt-{step}", "model": f"{job.id}:ckpt-step-{step}", "served_as": None}
    return Checkpoint(job_number=job.number, created_at=1, step=step, metrics={"step": step}, **name)


def _file(project_id: str, name: str) -> File:
    said: dict[str, Any] = {"id": name, "project_id": project_id, "filename": "a.jsonl", "digest": "0" * 64}
    return File(
        bytes=1, purpose="fine-tune", status="processed", records=1, created_at=int(time.time()), **said
    )
