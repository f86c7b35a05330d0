"""Files that come in parts, by the SDK that checks every answer."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from api_app import Api, Stages, running_api
from api_files_samples import GOOD, names, report, saying
from openai import OpenAI
from openai.types import Upload
from sqlalchemy import func, select, update

from hone_api.database.tables import Part
from hone_api.database.tables import Upload as Row
from hone_api.files import uploading

HALF = len(GOOD) // 2


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Api]:
    limits = {"part_bytes": 1000, "upload_bytes": 5000}
    folder = tmp_path_factory.mktemp("uploads")
    with running_api(
        folder, database=database_url, commands={"check": saying(0, report(2))}, limits=limits
    ) as api:
        yield api


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    yield running
    running.empty()


def begin(client: OpenAI, size: int = len(GOOD), **more: Any) -> Upload:
    asked: dict[str, Any] = {
        "filename": "data.jsonl",
        "mime_type": "application/jsonl",
        "purpose": "fine-tune",
    }
    return client.uploads.create(bytes=size, **(asked | more))


def refused(call: Any, param: str | None, status: int = 400) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert (caught.value.status_code, caught.value.param) == (status, param)


def parts_of(client: OpenAI, upload: Upload, *contents: bytes) -> list[str]:
    return [client.uploads.parts.create(upload.id, data=each).id for each in contents]


def counted(api: Api) -> int:
    with api.services.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Part)) or 0


def test_parts_become_a_file_in_the_order_in_which_they_are_named(api: Api, tmp_path: Path) -> None:
    client = api.client()
    upload = begin(client, expires_after={"anchor": "created_at", "seconds": 7200})
    assert (upload.status, upload.file, upload.expires_at) == ("pending", None, upload.created_at + 3600)
    second, first = parts_of(client, upload, GOOD[HALF:], GOOD[:HALF])
    md5 = hashlib.md5(GOOD).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=[first, second], md5=md5)
    assert done.status == "completed" and done.file is not None
    assert (done.file.bytes, done.file.expires_at) == (len(GOOD), done.file.created_at + 7200)
    assert client.files.content(done.file.id).content == GOOD
    assert (len(api.on_disk()), counted(api)) == (1, 0)
    stages = Stages(tmp_path)
    api.tick(stages, 2)
    assert client.files.wait_for_processing(done.file.id).status == "processed"


def test_the_sdk_cuts_a_file_into_parts_by_itself(api: Api, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(GOOD)
    client = api.client()
    for file in (tmp_path / "data.jsonl", GOOD):
        named: Any = {} if isinstance(file, Path) else {"filename": "data.jsonl", "bytes": len(GOOD)}
        done = client.uploads.upload_file_chunked(
            file=file, mime_type="application/jsonl", purpose="fine-tune", part_size=40, **named
        )
        assert done.file is not None and client.files.content(done.file.id).content == GOOD


def test_the_asynchronous_sdk_does_the_same(api: Api) -> None:
    async def everything() -> None:
        async with api.asynchronous() as client:
            done = await client.uploads.upload_file_chunked(
                file=GOOD,
                filename="data.jsonl",
                bytes=len(GOOD),
                mime_type="application/jsonl",
                purpose="fine-tune",
                part_size=40,
            )
            assert done.file is not None and (await client.files.content(done.file.id)).content == GOOD
            other = await client.uploads.create(
                bytes=1, filename="x", mime_type="text/plain", purpose="fine-tune"
            )
            await client.uploads.parts.create(other.id, data=b"x")
            assert (await client.uploads.cancel(other.id)).status == "cancelled"

    asyncio.run(everything())


def test_who_completes_twice_gets_the_same_file(api: Api) -> None:
    client = api.client()
    upload = begin(client)
    ids = parts_of(client, upload, GOOD[:HALF], GOOD[HALF:])
    with ThreadPoolExecutor(4) as pool:
        # Whoever comes too late for the parts and too early for the file asks again, as SDKs do.
        again = api.client(client.api_key, retries=5)
        done = list(pool.map(lambda _: again.uploads.complete(upload.id, part_ids=ids), range(4)))
    assert len({each.file.id for each in done if each.file}) == 1
    assert names(client.files.list()) == [done[0].file.id if done[0].file else ""]
    assert (len(api.on_disk()), counted(api)) == (1, 0)


def test_parts_are_joined_once_and_of_few_uploads_at_a_time(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often completing is asked for: each join is a copy of gigabytes, and has a thread."""
    client, join = api.client(), uploading._join
    inside: list[str] = []
    most, joined = 0, 0

    def slow(*arguments: Any) -> None:
        nonlocal most, joined
        inside.append("")
        most, joined = max(most, len(inside)), joined + 1
        time.sleep(0.05)
        join(*arguments)
        inside.pop()

    monkeypatch.setattr(uploading, "_join", slow)
    uploads = [begin(client) for _ in range(6)]
    asked = [(upload.id, parts_of(client, upload, GOOD)) for upload in uploads]
    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda each: client.uploads.complete(each[0], part_ids=each[1]), asked * 2))
    assert {each.status for each in done} == {"completed"}
    assert (joined, most) == (6, 4)


def test_a_cancelled_upload_leaves_nothing(api: Api) -> None:
    client = api.client()
    upload = begin(client)
    ids = parts_of(client, upload, GOOD)
    assert client.uploads.cancel(upload.id).status == "cancelled"
    assert client.uploads.cancel(upload.id).status == "cancelled"
    assert (api.on_disk(), counted(api)) == ([], 0)
    refused(lambda: client.uploads.parts.create(upload.id, data=b"x"), "upload_id")
    refused(lambda: client.uploads.complete(upload.id, part_ids=ids), "upload_id")
    assert api.on_disk() == []


def test_a_completed_upload_takes_nothing_more(api: Api) -> None:
    client = api.client()
    upload = begin(client)
    client.uploads.complete(upload.id, part_ids=parts_of(client, upload, GOOD))
    refused(lambda: client.uploads.cancel(upload.id), "upload_id")
    refused(lambda: client.uploads.parts.create(upload.id, data=b"x"), "upload_id")
    assert len(api.on_disk()) == 1


def test_an_upload_expires_after_an_hour(api: Api, tmp_path: Path) -> None:
    client = api.client()
    upload = begin(client)
    ids = parts_of(client, upload, GOOD)
    with api.services.database.writing() as session:
        session.execute(update(Row).values(expires_at=int(time.time())))
    refused(lambda: client.uploads.parts.create(upload.id, data=b"x"), "upload_id")
    refused(lambda: client.uploads.complete(upload.id, part_ids=ids), "upload_id")
    refused(lambda: client.uploads.cancel(upload.id), "upload_id")
    api.tick(Stages(tmp_path))
    assert (api.on_disk(), counted(api)) == ([], 0)
    refused(lambda: client.uploads.complete(upload.id, part_ids=ids), "upload_id")


def test_parts_that_are_not_what_was_promised_are_refused(api: Api) -> None:
    client = api.client()
    upload, other = begin(client), begin(client, 3)
    ids, [strange] = parts_of(client, upload, GOOD[:HALF], GOOD[HALF:]), parts_of(client, other, b"abc")

    def complete(part_ids: list[str], **more: Any) -> Any:
        return client.uploads.complete(upload.id, part_ids=part_ids, **more)

    refused(lambda: complete(ids[:1]), "part_ids")
    refused(lambda: complete([*ids, ids[0]]), "part_ids")
    refused(lambda: complete([ids[0], strange]), "part_ids")
    refused(lambda: complete([ids[0], "part_none"]), "part_ids")
    refused(lambda: complete([]), "part_ids")
    refused(lambda: complete(ids, md5="0" * 32), "md5")
    refused(lambda: complete(ids, md5="what"), "md5")
    assert len(api.on_disk()) == 3
    assert complete(ids).status == "completed"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"size": 0}, "bytes"),
        ({"size": 5001}, "bytes"),
        ({"purpose": "assistants"}, "purpose"),
        ({"filename": "../data.jsonl"}, "filename"),
        ({"filename": "a\0b"}, "filename"),
        ({"filename": ""}, "filename"),
        ({"filename": "x" * 513}, "filename"),
        ({"mime_type": "a\nb"}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"extra_body": {"file": "x"}}, "file"),
    ],
)
def test_an_upload_that_could_be_no_file_is_refused(api: Api, asked: dict[str, Any], param: str) -> None:
    refused(lambda: begin(api.client(), **asked), param)


def test_a_part_is_neither_empty_nor_too_large(api: Api) -> None:
    client = api.client()
    upload = begin(client)
    refused(lambda: client.uploads.parts.create(upload.id, data=b""), "data")
    refused(lambda: client.uploads.parts.create(upload.id, data=b"x" * 1001), "data", 413)
    assert api.on_disk() == []


def test_parts_are_within_the_projects_room(tmp_path: Path) -> None:
    with running_api(tmp_path, limits={"project_bytes": 100}) as api:
        client = api.client()
        with pytest.raises(openai.BadRequestError, match="over 100"):
            begin(client, 101)
        upload = begin(client, 90)
        parts_of(client, upload, b"x" * 90)
        with pytest.raises(openai.BadRequestError, match="over 100"):
            client.uploads.parts.create(upload.id, data=b"x" * 11)
        assert len(api.on_disk()) == 1


def test_a_project_has_so_many_uploads_at_once(api: Api) -> None:
    client = api.client()
    first = begin(client, 1)
    with api.services.database.writing() as session:
        row = session.get_one(Row, first.id)
        columns = [each.name for each in Row.__table__.columns]
        values = {name: getattr(row, name) for name in columns}
        session.add_all(Row(**values | {"id": f"upload_{number}"}) for number in range(99))
    with pytest.raises(openai.BadRequestError, match="100 uploads are pending"):
        begin(client, 1)
