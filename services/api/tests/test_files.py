"""Files, by the SDK that checks every answer: uploaded, read by the trainer, listed, fetched, gone."""

import asyncio
import io
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from api_app import Api, Stages, running_api
from api_files_samples import CHECK, GOOD, example, lines, names, report, saying
from openai import OpenAI
from openai.types import FileObject
from sqlalchemy import select, update

from hone_api.database.tables import File, Job
from hone_api.files.removing import sweep_files
from hone_api.launcher.stages import Command, State


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Api]:
    with running_api(
        tmp_path_factory.mktemp("files"), database=database_url, commands={"check": CHECK}
    ) as api:
        yield api


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    yield running
    running.empty()


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    return Stages(tmp_path)


def upload(client: OpenAI, content: bytes = GOOD, name: str = "data.jsonl", **more: Any) -> FileObject:
    return client.files.create(file=(name, content), purpose="fine-tune", **more)


def refusal(call: Any) -> Any:
    """What a request is told that is wrong: OpenAI's body."""
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    body = caught.value.body
    assert isinstance(body, dict) and body.keys() == {"message", "type", "param", "code"}
    return caught.value


def set_file(api: Api, file_id: str, **values: Any) -> None:
    with api.services.database.writing() as session:
        session.execute(update(File).where(File.id == file_id).values(**values))


# -- the SDK's methods -----------------------------------------------------------------------------


def test_a_file_is_uploaded_read_fetched_and_deleted(api: Api, stages: Stages) -> None:
    client = api.client()
    made = upload(client)
    assert (made.bytes, made.filename, made.purpose) == (len(GOOD), "data.jsonl", "fine-tune")
    assert (made.status, made.expires_at, made.status_details) == ("uploaded", None, None)
    assert made.id.startswith("file-") and abs(made.created_at - time.time()) < 60
    assert client.files.retrieve(made.id) == made
    api.tick(stages, 2)
    assert client.files.wait_for_processing(made.id).status == "processed"
    answer = client.files.content(made.id)
    assert answer.content == GOOD
    assert answer.response.headers["content-disposition"] == 'attachment; filename="data.jsonl"'
    assert answer.response.headers["content-type"] == "application/octet-stream"
    assert client.files.delete(made.id).deleted
    assert refusal(lambda: client.files.retrieve(made.id)).status_code == 404
    assert (api.on_disk(), api.records()) == ([], 0)


def test_the_asynchronous_sdk_does_the_same(api: Api, stages: Stages) -> None:
    async def everything() -> None:
        async with api.asynchronous() as client:
            made = await client.files.create(file=io.BytesIO(GOOD), purpose="fine-tune")
            assert (await client.files.retrieve(made.id)).id == made.id
            await asyncio.to_thread(api.tick, stages, 2)
            assert (await client.files.wait_for_processing(made.id)).status == "processed"
            assert [each.id async for each in client.files.list()] == [made.id]
            assert (await client.files.content(made.id)).content == GOOD
            assert (await client.files.delete(made.id)).deleted

    asyncio.run(everything())


def test_a_file_by_its_path_has_its_name_only(api: Api, tmp_path: Path) -> None:
    (tmp_path / "données 1.jsonl").write_bytes(GOOD)
    client = api.client()
    made = client.files.create(file=tmp_path / "données 1.jsonl", purpose="fine-tune")
    assert made.filename == "données 1.jsonl"
    told = client.files.content(made.id).response.headers["content-disposition"]
    assert told == "attachment; filename*=UTF-8''donn%C3%A9es%201.jsonl"


def test_files_are_listed_a_page_at_a_time_in_both_orders(api: Api) -> None:
    client = api.client()
    made = [upload(client, lines(example(str(number)))).id for number in range(5)]
    assert names(client.files.list(limit=2)) == made[::-1]
    assert names(client.files.list(limit=2, order="asc")) == made
    first = client.files.list(limit=3, order="asc")
    assert (names(first.data), first.has_more) == (made[:3], True)
    last = client.files.list(limit=2, order="asc", after=made[2])
    assert (names(last.data), last.has_more) == (made[3:], False)
    assert names(client.files.list(purpose="fine-tune")) == made[::-1]
    assert names(client.files.list(purpose="fine-tune-results")) == []
    assert names(client.files.list(purpose="a\0b")) == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "file-none"}, "after"),
        ({"after": "\0"}, "after"),
    ],
)
def test_a_list_that_cannot_be_had_is_refused(api: Api, query: dict[str, Any], param: str) -> None:
    found = refusal(lambda: api.client().files.list(**query))
    assert (found.status_code, found.param) == (400, param)


def test_the_same_bytes_lie_on_disk_once_until_the_last_file_is_deleted(api: Api, stages: Stages) -> None:
    one, other = api.client(api.key("one")), api.client(api.key("other"))
    first, second = upload(one), upload(other)
    assert len(api.on_disk()) == 1
    api.tick(stages, 2)
    one.files.delete(first.id)
    assert other.files.content(second.id).content == GOOD
    other.files.delete(second.id)
    assert api.on_disk() == []


# -- what the trainer says -------------------------------------------------------------------------


def test_a_bad_file_is_told_with_its_lines(api: Api, stages: Stages) -> None:
    client = api.client()
    bad = lines(example(), "{", example(), '{"messages": []}')
    made = upload(client, bad)
    api.tick(stages, 2)
    found = client.files.retrieve(made.id)
    assert found.status == "error" and found.status_details is not None
    first, second = found.status_details.split("\n")
    assert first.startswith("line 2: not JSON") and second.startswith("line 4: messages is no list")
    assert stages.states == {}


def test_a_good_file_has_its_number_of_examples(api: Api, stages: Stages) -> None:
    made = upload(api.client())
    api.tick(stages, 2)
    with api.services.database.reading() as session:
        assert session.scalar(select(File.records).where(File.id == made.id)) == 2


@pytest.mark.parametrize(
    ("command", "status", "details"),
    [
        (saying(0, report(3)), "processed", None),
        (saying(65, "a warning", report(0)), "error", "The file holds no example"),
        (
            saying(65, report(1, *[(line, "is bad") for line in range(1, 13)], more=5)),
            "error",
            "\n".join([*[f"line {line}: is bad" for line in range(1, 11)], "… and 7 more"]),
        ),
        (saying(65, report(0, (None, "is UTF-16"))), "error", "is UTF-16"),
        (saying(78), "error", "The file could not be read here"),
        (saying(0, "{"), "error", "The file could not be read here"),
        (saying(75), "error", "The file could not be read here"),
    ],
)
def test_a_stage_decides_what_becomes_of_a_file(
    tmp_path: Path, command: list[str], status: str, details: str | None
) -> None:
    with running_api(tmp_path, commands={"check": command}) as api:
        client, stages = api.client(), Stages(tmp_path)
        made = upload(client)
        api.tick(stages, 6)
        found = client.files.retrieve(made.id)
        assert (found.status, (found.status_details or "").startswith(details or "")) == (status, True)
        assert (found.status_details is None) is (details is None)
        assert stages.states == {}


def test_a_stage_that_is_lost_is_begun_again_three_times(tmp_path: Path) -> None:
    with running_api(tmp_path, commands={"check": saying(0, report(3))}) as api:
        client = api.client()
        for losing, status in ((3, "processed"), (4, "error")):
            stages, made = Stages(tmp_path, losing), upload(client)
            api.tick(stages, 6)
            assert client.files.retrieve(made.id).status == status
            assert stages.begun == [f"{made.id}/{number}-check" for number in (1, 2, 3, 4)]


def test_a_process_that_is_killed_anywhere_leaves_the_next_one_to_end_it(tmp_path: Path) -> None:
    with running_api(tmp_path, commands={"check": saying(0, report(3))}) as api:
        client = api.client()
        for after in range(1, 100):
            stages, made = Killed(tmp_path, losing=1, after=after), upload(client)
            with suppress(Killing):
                api.tick(stages, 4)
            was_killed, stages.after = stages.after == 0, -1
            api.tick(stages, 4)
            assert (client.files.retrieve(made.id).status, stages.states) == ("processed", {})
            if not was_killed:
                break
        assert after > 10


class Killing(BaseException):
    """As if the process ended here."""


@dataclass
class Killed(Stages):
    """A launcher in whose n-th call the process is killed."""

    after: int = -1

    def state(self, name: str) -> State:
        self._count()
        return super().state(name)

    def begin(self, name: str, command: Command) -> None:
        self._count()
        super().begin(name, command)

    def forget(self, name: str) -> None:
        self._count()
        super().forget(name)

    def _count(self) -> None:
        self.after -= 1
        if self.after == 0:
            raise Killing


def test_a_file_that_takes_too_long_to_read_is_an_error(tmp_path: Path) -> None:
    limits = {"check_seconds": 0.001}
    with running_api(tmp_path, commands={"check": saying(0)}, limits=limits) as api:
        client, stages = api.client(), Stages(tmp_path, held=True)
        made = upload(client)
        api.tick(stages, 2)
        assert (stages.stopped, client.files.retrieve(made.id).status) == ([f"{made.id}/1-check"], "uploaded")
        api.tick(stages)
        found = client.files.retrieve(made.id)
        assert found.status == "error" and found.status_details is not None
        assert found.status_details.startswith("The file could not be read in 0.001 seconds")
        assert (stages.begun, stages.states) == ([f"{made.id}/1-check"], {})


def test_the_wait_for_a_node_is_no_time_of_reading(tmp_path: Path) -> None:
    with running_api(tmp_path, commands={"check": saying(0)}) as api:
        client, stages = api.client(), Stages(tmp_path, held=True)
        made = upload(client)
        name = f"{made.id}/1-check"
        api.tick(stages)

        def late(by: int) -> int:
            """The time until which it must have been read, after a look."""
            with api.services.database.writing() as session:
                session.execute(update(File).values(check_until=int(time.time()) + by))
            api.tick(stages)
            with api.services.database.reading() as session:
                return session.scalars(select(File.check_until)).one() - int(time.time())

        stages.states[name] = State("running", note="Waits for a node: 0/1 nodes are available")
        assert late(-9000) > 3000 and stages.stopped == []
        # Not at every look.
        assert late(2000) <= 2000
        stages.states[name] = State("running")
        assert late(1000) <= 1000
        late(-1)
        assert stages.stopped == [name]


def test_two_files_are_read_at_once_and_the_others_wait(tmp_path: Path) -> None:
    with running_api(tmp_path, commands={"check": saying(0)}) as api:
        client, stages = api.client(), Stages(tmp_path, held=True)
        made = [upload(client, lines(example(str(number)))).id for number in range(3)]
        api.tick(stages, 3)
        assert stages.begun == [f"{each}/1-check" for each in made[:2]]


def test_a_file_that_is_deleted_while_it_is_read_leaves_no_stage_and_no_bytes(tmp_path: Path) -> None:
    with running_api(tmp_path, commands={"check": saying(0)}) as api:
        client, stages = api.client(), Stages(tmp_path, held=True)
        made = upload(client)
        api.tick(stages)
        client.files.delete(made.id)
        assert refusal(lambda: client.files.retrieve(made.id)).status_code == 404
        api.tick(stages)
        assert stages.stopped == [f"{made.id}/1-check"]
        api.tick(stages)
        assert (stages.states, api.on_disk(), api.records()) == ({}, [], 0)


def test_a_file_that_a_job_needs_goes_with_the_job(api: Api, stages: Stages) -> None:
    client = api.client()
    made = upload(client)
    api.tick(stages, 2)
    with api.services.database.writing() as session:
        project_id = session.scalar(select(File.project_id).where(File.id == made.id))
        session.add(_job(project_id or "", made.id))
    client.files.delete(made.id)
    assert names(client.files.list()) == []
    api.tick(stages)
    assert len(api.on_disk()) == 1
    with api.services.database.writing() as session:
        session.execute(update(Job).values(status="succeeded"))
    api.tick(stages)
    assert (api.on_disk(), api.records()) == ([], 0)


def _job(project_id: str, file_id: str) -> Job:
    texts = {"model": "m", "training_file": file_id, "status": "running", "stage": "train"}
    zeros = dict.fromkeys(("created_at", "seed", "attempt", "failures", "not_before"), 0)
    objects: dict[str, Any] = {
        "method": {"type": "supervised"},
        "resolved": {},
        "labels": {},
        "progress": {},
        "result_files": [],
    }
    return Job(id="ftjob-x", project_id=project_id, **texts, **zeros, **objects)


# -- time and room ---------------------------------------------------------------------------------


def test_a_file_is_gone_when_its_time_is_over(api: Api, stages: Stages) -> None:
    client = api.client()
    made = upload(client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert made.expires_at == made.created_at + 3600
    api.tick(stages, 2)
    set_file(api, made.id, expires_at=int(time.time()))
    unknown = refusal(lambda: client.files.retrieve("file-none"))
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        found = refusal(lambda call=call: call(made.id))
        assert found.message.replace(made.id, "file-none") == unknown.message
    assert names(client.files.list()) == []
    assert len(api.on_disk()) == 1
    api.tick(stages)
    assert (api.on_disk(), api.records()) == ([], 0)


@pytest.mark.parametrize(
    ("after", "param"),
    [
        ({"anchor": "created_at", "seconds": 3599}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 2_592_001}, "expires_after.seconds"),
        ({"anchor": "created_at"}, "expires_after.seconds"),
        ({"anchor": "now", "seconds": 3600}, "expires_after.anchor"),
        ({"seconds": 3600}, "expires_after.anchor"),
    ],
)
def test_an_expiry_that_there_is_not_is_refused(api: Api, after: Any, param: str) -> None:
    found = refusal(lambda: upload(api.client(), expires_after=after))
    assert (found.status_code, found.param, api.on_disk()) == (400, param, [])


def test_a_project_has_room_for_so_much_and_others_for_as_much_again(tmp_path: Path) -> None:
    limits = {"project_bytes": 2 * len(GOOD)}
    with running_api(tmp_path, limits=limits, commands={"check": saying(0, report(1))}) as api:
        one, other = api.client(api.key("one")), api.client(api.key("other"))
        first, _ = upload(one), upload(one)
        found = refusal(lambda: upload(one, lines(example("other"))))
        assert (found.status_code, found.code) == (400, "storage_quota_exceeded")
        assert len(api.on_disk()) == 1
        upload(other)
        stages = Stages(tmp_path)
        api.tick(stages, 2)
        one.files.delete(first.id)
        upload(one, lines(example("x")))


def test_what_lies_on_disk_is_for_nobody_else_to_read(api: Api) -> None:
    upload(api.client())
    kept = [each for name in ("files", "parts", "incoming") for each in (api.folder / name).rglob("*")]
    kept += [api.folder / name for name in ("files", "parts", "incoming", "files.lock")]
    url = api.services.settings.database
    if url.startswith("sqlite"):
        kept += Path(url.removeprefix("sqlite:///")).parent.glob("hone-api.db*")
    # What is in a folder that nobody else may enter may have any mode.
    shut = [each for each in kept if each.stat().st_mode & 0o077 == 0]
    assert {each for each in kept if not set(each.parents) & set(shut)} <= set(shut)
    assert len(shut) >= 5


def test_what_a_killed_process_left_is_swept(api: Api) -> None:
    made = upload(api.client())
    storage = api.services.storage
    (api.folder / "incoming" / "left").write_bytes(b"x")
    with storage.incoming() as incoming:
        incoming.write(b"never told")
        incoming.keep()
    with storage.incoming() as incoming:
        incoming.write(b"a part")
        incoming.keep_as_part("part_" + 24 * "x")
    with storage.incoming() as arriving:
        arriving.write(b"now")
        sweep_files(api.services)
        assert [each.split("/")[0] for each in api.on_disk()] == ["files", "incoming"]
    assert api.client().files.content(made.id).content == GOOD
    assert len(api.on_disk()) == 1
