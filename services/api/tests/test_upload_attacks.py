"""What comes to an open api: each is refused as OpenAI does it, and leaves nothing on disk."""

import asyncio
import gzip
import io
import json
import re
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from api_app import Api, Stages, running_api, wait_until
from api_files_samples import BOUNDARY, CHECK, FORM, GOOD, field, form, whole

from hone_api.errors import ApiError
from hone_api.middleware import Around
from hone_api.settings import Limits
from hone_contract.events import Reporter

# Many send bodies to an api that is a process, or read files in one.
pytestmark = pytest.mark.chain

LARGEST = 20_000
FILE, PURPOSE = field("file", GOOD, b"data.jsonl"), field("purpose", b"fine-tune")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Api]:
    limits = {"file_bytes": LARGEST, "part_bytes": LARGEST, "body_seconds": 0.5}
    folder = tmp_path_factory.mktemp("attacked")
    with running_api(folder, database=database_url, commands={"check": CHECK}, limits=limits) as api:
        yield api


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    yield running
    running.empty()


def post(api: Api, body: bytes, **headers: str) -> httpx.Response:
    with api.plain() as client:
        return client.post(
            "/files", content=body, headers=FORM | {k.replace("_", "-"): v for k, v in headers.items()}
        )


def check_refused(api: Api, answer: httpx.Response, status: int = 400, param: str | None = None) -> str:
    """And that nothing is left of it: what the client is told."""
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert (api.on_disk(), api.records()) == ([], 0)
    return str(error["message"])


def raw(api: Api, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which this much was sent."""
    connection = socket.create_connection(("127.0.0.1", urlsplit(api.url).port or 0), timeout=20)
    connection.sendall(f"{head}\r\nHost: x\r\nAuthorization: Bearer {api.key()}\r\n\r\n".encode() + body)
    return connection


def received(connection: socket.socket) -> bytes:
    """Until the other side has closed it."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_form_by_hand_is_a_file(api: Api) -> None:
    answer = post(api, whole())
    assert (answer.status_code, answer.json()["filename"]) == (200, "data.jsonl")
    assert len(api.on_disk()) == 1


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"../../etc/passwd",
        b"..",
        b".",
        b"/etc/passwd",
        b"..\\..\\data.jsonl",
        b"a\0b",
        b"a\tb",
        b"a\nb",
        b"a\x1b[31mb",
        "a\u2028b".encode(),
        b"",
        b"x" * 513,
    ],
)
def test_a_name_that_is_none_is_refused(api: Api, name: bytes) -> None:
    answer = post(api, whole(name))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in ("filename", None)
    assert (api.on_disk(), api.records()) == ([], 0)


@pytest.mark.parametrize("name", [b"a\r\nX-Evil: 1", b"a\r\n\r\nb", b"\xff\xfe"])
def test_a_name_that_breaks_the_form_is_refused(api: Api, name: bytes) -> None:
    check_refused(api, post(api, whole(name)))


def test_what_a_name_looks_like_says_nothing_of_where_the_file_lies(api: Api) -> None:
    name = "%2e%2e%2f <b>'; DROP TABLE files--\u202e.jsonl"
    made = post(api, whole(name.encode())).json()
    assert made["filename"] == name
    assert all(re.fullmatch(r"files/[0-9a-f]{2}/[0-9a-f]{64}", each) for each in api.on_disk())
    with api.plain() as client:
        told = client.get(f"/files/{made['id']}/content").headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename\*=UTF-8''[\w%.-]+", told)


# -- forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told", "param"),
    [
        (form(PURPOSE), "no file", "file"),
        (form(FILE), "Say what the file is for", "purpose"),
        (form(PURPOSE, FILE, FILE), "twice", "file"),
        (form(PURPOSE, PURPOSE, FILE), "twice", "purpose"),
        (form(PURPOSE, field("file", GOOD)), "no filename", "file"),
        (form(PURPOSE, FILE, field("other", b"x")), "Unrecognized request argument", "other"),
        (form(field("purpose", b"x" * 1025), FILE), "more than 1024 bytes", "purpose"),
        (form(field("purpose", b"\xff"), FILE), "not UTF-8", None),
        (form(PURPOSE, field("file", b"", b"data.jsonl")), "empty", "file"),
        (form(PURPOSE, FILE, end=b""), "cut off", None),
        (form(PURPOSE, FILE)[:-30], "cut off", None),
        (b"", "cut off", None),
        (b"{}", "cannot be read", None),
        (form(PURPOSE, b"--a-boundary\r\nX: " + b"y" * 10_000 + b"\r\n\r\n"), "cannot be read", None),
        (form(PURPOSE, b"--a-boundary\r\nContent-Disposition: attachment\r\n\r\nx\r\n"), "no name", None),
    ],
)
def test_a_form_that_is_not_right_is_refused(api: Api, body: bytes, told: str, param: str | None) -> None:
    assert told in check_refused(api, post(api, body), param=param)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "application/json",
        "multipart/mixed; boundary=x",
    ],
)
def test_a_body_that_is_no_form_is_refused(api: Api, kind: str) -> None:
    assert "multipart/form-data; boundary=" in check_refused(api, post(api, whole(), Content_Type=kind))


def test_a_boundary_without_end_is_refused(api: Api) -> None:
    check_refused(api, post(api, whole(), Content_Type=f"multipart/form-data; boundary={'x' * 5000}"))


@pytest.mark.parametrize("purpose", ["assistants", "fine-tune-results", "batch", "a\nb", "fine-tune\0"])
def test_a_purpose_that_is_not_served_is_refused(api: Api, purpose: str) -> None:
    told = check_refused(api, post(api, whole(purpose=purpose.encode())), param="purpose")
    assert "fine-tune" in told


# -- sizes -----------------------------------------------------------------------------------------


def test_the_sdk_is_told_that_a_file_is_too_large(api: Api) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        api.client().files.create(file=("x", b"x" * (LARGEST + 1)), purpose="fine-tune")
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (413, "too_large", "file")
    assert api.on_disk() == []


def test_a_file_may_be_as_large_as_is_allowed(api: Api) -> None:
    made = api.client().files.create(file=("x", b"x" * LARGEST), purpose="fine-tune")
    assert made.bytes == LARGEST


def test_ten_gigabytes_are_refused_before_a_byte_is_read(api: Api) -> None:
    head = f"POST /v1/files HTTP/1.1\r\nContent-Type: {FORM['Content-Type']}\r\nContent-Length: {10 * 2**30}"
    answer = received(raw(api, head))
    assert answer.startswith(b"HTTP/1.1 413 ") and b'"too_large"' in answer
    assert (api.on_disk(), api.records()) == ([], 0)


def test_a_body_of_unsaid_length_is_ended_when_it_is_too_long(api: Api) -> None:
    def endless() -> Iterator[bytes]:
        yield form(PURPOSE, end=b"") + field("file", b"", b"x")[:-2]
        for _ in range(200):
            yield b"x" * 65536

    with api.plain() as client:
        try:
            answer = client.post("/files", content=endless(), headers=FORM)
        except httpx.TransportError:
            # It had no time to read the answer, since it was writing still.
            pass
        else:
            assert answer.status_code == 413
    wait_until(lambda: not api.on_disk())
    assert api.records() == 0


def test_a_form_that_is_all_beginnings_of_boundaries_is_read_at_once(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        content = f"\r\n--{BOUNDARY}"[:-1].encode() * 200_000
        begun = time.monotonic()
        answer = post(api, form(PURPOSE, field("file", content, b"x")))
        assert (answer.status_code, answer.json()["bytes"]) == (200, len(content))
        assert time.monotonic() - begun < 20


# -- bodies that do not end ------------------------------------------------------------------------


def test_a_slow_body_is_ended(api: Api) -> None:
    head = f"POST /v1/files HTTP/1.1\r\nContent-Type: {FORM['Content-Type']}\r\nContent-Length: 5000"
    connection = raw(api, head, form(PURPOSE, FILE, end=b""))
    wait_until(lambda: len(api.on_disk()) == 1)
    begun = time.monotonic()
    answer = received(connection)
    assert time.monotonic() - begun < 4, "the connection was not closed"
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"timeout"' in answer
    assert (api.on_disk(), api.records()) == ([], 0)


def test_an_upload_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        head = f"POST /v1/files HTTP/1.1\r\nContent-Type: {FORM['Content-Type']}\r\nContent-Length: 5000000"
        connection = raw(api, head, form(PURPOSE, field("file", b"x" * 500_000, b"x"), end=b""))
        wait_until(lambda: len(api.on_disk()) == 1)
        connection.close()
        wait_until(lambda: not api.on_disk())
        assert api.records() == 0
        log = tmp_path / "log.jsonl"
        wait_until(log.exists)
        assert '"level":"error"' not in log.read_text(encoding="utf-8")


def test_a_body_that_never_pauses_is_ended_too(tmp_path: Path) -> None:
    sent = 0

    async def receive() -> Any:
        nonlocal sent
        await asyncio.sleep(0.01)
        sent += 1
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read_all(_: Any, receive: Any, __: Any) -> None:
        while True:
            await receive()

    around = Around(read_all, Limits(whole_body_seconds=0.1), Reporter("api", tmp_path / "log.jsonl"))
    scope = {"type": "http", "method": "POST", "path": "/v1/files"}
    with pytest.raises(ApiError) as refused:
        asyncio.run(around(scope, receive, None))
    assert (refused.value.status_code, refused.value.code) == (408, "timeout")
    assert sent > 1


def test_that_it_lives_is_told_although_all_threads_are_busy(api: Api) -> None:
    with ThreadPoolExecutor(50) as pool, api.plain() as client:
        # Whoever brings bytes into place waits for whoever is alone there.
        with api.services.storage.alone():
            waiting = [pool.submit(client.post, "/files", content=whole(), headers=FORM) for _ in range(50)]
            wait_until(lambda: len(api.on_disk()) >= 40)
            for path in ("/health", "/metrics"):
                assert httpx.get(api.url + path, timeout=5).status_code == 200
        assert {each.result().status_code for each in waiting} == {200}


def test_a_path_begins_no_line_of_the_log_and_says_nothing_to_a_terminal(api: Api) -> None:
    log = api.services.reporter.file
    assert log is not None
    httpx.get(f"{api.url}/v1/a%0A12:00:00%20api%20%1B[2J")
    wait_until(lambda: "12:00:00" in log.read_text(encoding="utf-8"))
    [line] = [each for each in log.read_text(encoding="utf-8").splitlines() if "12:00:00" in each]
    assert json.loads(line)["message"].startswith(r"GET /v1/a\n12:00:00 api \x1b[2J 404 in ")


# -- content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_body_that_is_packed_is_not_unpacked(api: Api, encoding: str) -> None:
    bomb = gzip.compress(whole() + b"\0" * 10**7)
    check_refused(api, post(api, bomb, Content_Encoding=encoding), 415)


def test_a_part_that_is_encoded_is_refused(api: Api) -> None:
    encoded = field("file", GOOD, b"x").replace(
        b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1
    )
    check_refused(api, post(api, form(PURPOSE, encoded)))


@pytest.mark.parametrize("kind", ["zip", "gzip"])
def test_a_bomb_is_no_training_file_and_is_not_unpacked(api: Api, tmp_path: Path, kind: str) -> None:
    packed, stages, client = io.BytesIO(), Stages(tmp_path), api.client()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
            bomb.writestr("data.jsonl", b"0" * 10**7)
    else:
        packed.write(gzip.compress(b"0" * 10**7))
    made = client.files.create(file=("data.jsonl.gz", packed.getvalue()), purpose="fine-tune")
    api.tick(stages, 2)
    found = client.files.retrieve(made.id)
    assert (found.status, "UTF-8" in (found.status_details or "")) == ("error", True)
    client.files.delete(made.id)
    assert api.on_disk() == []


# -- parts -----------------------------------------------------------------------------------------


@pytest.fixture
def upload_id(api: Api) -> str:
    made = api.client().uploads.create(
        bytes=len(GOOD), filename="x", mime_type="text/plain", purpose="fine-tune"
    )
    return made.id


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form(), 400),
        (form(FILE), 400),
        (form(field("data", GOOD)), 400),
        (form(field("data", GOOD, b"x"), field("data", GOOD, b"x")), 400),
        (form(field("data", GOOD, b"x"), end=b""), 400),
        (form(field("data", b"", b"x")), 400),
        (form(field("data", b"x" * (LARGEST + 1), b"x")), 413),
    ],
)
def test_a_part_that_is_not_right_is_refused(api: Api, upload_id: str, body: bytes, status: int) -> None:
    with api.plain() as client:
        answer = client.post(f"/uploads/{upload_id}/parts", content=body, headers=FORM)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert (api.on_disk(), api.records()) == ([], 0)


def test_a_parts_name_is_not_looked_at(api: Api, upload_id: str) -> None:
    with api.plain() as client:
        body = form(field("data", GOOD, b"../../x"))
        part = client.post(f"/uploads/{upload_id}/parts", content=body, headers=FORM).json()
    assert api.on_disk() == [f"parts/{part['id']}"]


# -- others' things --------------------------------------------------------------------------------

FILE_ROUTES = [("GET", "/files/{}"), ("GET", "/files/{}/content"), ("DELETE", "/files/{}")]
UPLOAD_ROUTES = [
    ("POST", "/uploads/{}/parts", {"content": form(field("data", GOOD, b"x")), "headers": FORM}),
    ("POST", "/uploads/{}/complete", {"json": {"part_ids": ["part_x"]}}),
    ("POST", "/uploads/{}/cancel", {}),
]
ROUTES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/files", {"content": whole(), "headers": FORM}),
    ("GET", "/files", {}),
    *((method, path, {}) for method, path in FILE_ROUTES),
    (
        "POST",
        "/uploads",
        {"json": {"bytes": 1, "filename": "x", "mime_type": "text/plain", "purpose": "fine-tune"}},
    ),
    *UPLOAD_ROUTES,
]
PATHS = [f"{method} {path}" for method, path, _ in ROUTES]


@pytest.mark.parametrize(("method", "path", "more"), ROUTES, ids=PATHS)
def test_another_projects_things_are_as_if_they_were_not(
    api: Api, upload_id: str, method: str, path: str, more: dict[str, Any]
) -> None:
    """A key that may not is told so before anything is looked up."""
    file_id = post(api, whole()).json()["id"]
    known, unknown = (file_id, "file-none") if "files" in path else (upload_id, "upload_none")
    before = api.on_disk()
    with api.plain(api.key("other")) as other:
        if "{}" in path:
            theirs, nobodys = (other.request(method, path.format(each), **more) for each in (known, unknown))
            assert (theirs.status_code, nobodys.status_code) == (404, 404)
            assert theirs.text.replace(known, unknown) == nobodys.text
        elif method == "GET":
            assert other.request(method, path, **more).json()["data"] == []
            assert other.get(path, params={"after": file_id}).status_code == 400
    for key, status in ((api.key("one", "tune", "chat"), 403), ("hone-wrong", 401), ("", 401)):
        with api.plain(key or "x") as client:
            if not key:
                del client.headers["Authorization"]
            told = [client.request(method, path.format(each), **more) for each in (known, unknown)]
        assert [each.status_code for each in told] == [status, status]
        assert told[0].text == told[1].text
    assert (api.on_disk(), api.records()) == (before, 1)


@pytest.mark.parametrize("file_id", ["..%2f..%2fetc%2fpasswd", "%00", "x" * 500, "file-%F0%9F%92%A3", "'--"])
def test_an_id_that_is_none_is_unknown(api: Api, file_id: str) -> None:
    with api.plain() as client:
        for method, path in FILE_ROUTES:
            answer = client.request(method, path.format(file_id))
            assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
        assert client.post(f"/uploads/{file_id}/cancel").status_code == 404
