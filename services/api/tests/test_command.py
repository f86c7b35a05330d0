"""The command `hone-api` at its edges: what a supervisor, a shell and whoever mistypes see of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from api_process import Api, running_api, stand_in_api, wait_for
from api_upstream import stand_in

from hone_api.settings import Upstream

pytestmark = pytest.mark.chain

HEAVY = ("fastapi", "sqlalchemy", "uvicorn", "alembic", "httpx")
WATCH = f"""
import atexit, runpy, sys
atexit.register(lambda: print([name for name in {HEAVY!r} if name in sys.modules]))
sys.argv = ["hone-api", "--help"]
runpy.run_module("hone_api", run_name="__main__")
"""


def hone_api(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}
    command = [sys.executable, "-m", "hone_api", *arguments]
    return subprocess.run(command, env=clean | variables, capture_output=True, text=True, timeout=60)


def refused(*arguments: str, **variables: str) -> str:
    """The one line that a mistake is told in."""
    done = hone_api(*arguments, **variables)
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    return line


def serving(api: Api) -> "subprocess.CompletedProcess[str]":
    """A second one on an api's settings, which is to end by itself."""
    return hone_api("--config", str(api.folder / "hone-api.yaml"), "serve", "--port", str(api.port))


def log_of(api: Api) -> list[str]:
    return (api.folder / "api.log").read_text(encoding="utf-8").splitlines()


def test_help_is_there_in_less_than_a_second_and_loads_nothing() -> None:
    taken = []
    for _ in range(3):
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, timeout=60)
        taken.append(time.monotonic() - begin)
        assert done.stdout.splitlines()[-1] == "[]"
        assert "usage: hone-api" in done.stdout
    assert min(taken) < 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modles: {}", "modles"),
        ("limits: {file_bytes: many}", "limits.file_bytes"),
        ("models: {tiny: {base: b, learning_rate: 0}}", "models.tiny.learning_rate"),
        ("servers: [{url: 'http://a:1'}]", "servers.0"),
        ("servers: [{url: 'http://a:1/v1', base: b}]", "servers.0.url"),
        ("servers: [{url: 'http://a:1', base: b, key_file: nowhere}]", "servers.0.key_file"),
        ("local: {serving: pause}", "local: Value error, serving: pause needs"),
        ("[1]", "is no mapping"),
    ],
)
def test_a_wrong_setting_is_told_by_its_name(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "hone-api.yaml"
    file.write_text(text, encoding="utf-8")
    line = refused("--config", str(file), "serve")
    assert line.startswith(f"error: {file}: {told}")


@pytest.mark.parametrize(
    ("text", "key"), [("one\n", "one"), ("# ours\nname:o:ne,two\nthree\n", "o:ne"), (" one , two", "one")]
)
def test_the_key_for_a_server_may_be_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    server = Upstream(url="http://server:8000", base="base", key_variable="KEY_OF_SERVER", key_file=file)
    assert server.key == key
    monkeypatch.setenv("KEY_OF_SERVER", "mine,other")
    assert server.key == "mine"


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    assert "nowhere.yaml: cannot be read" in refused("--config", str(tmp_path / "nowhere.yaml"), "serve")


@pytest.mark.parametrize("words", [[], ["serv"], ["serve", "--prot", "1"], ["keys"], ["keys", "revoke"]])
def test_a_wrong_option_says_where_help_is(words: list[str]) -> None:
    done = hone_api(*words)
    assert (done.returncode, "--help" in done.stderr) == (78, True)


def test_a_port_of_the_environment_may_be_empty_but_not_a_word(tmp_path: Path) -> None:
    data = {"HONE_API_DATA": str(tmp_path)}
    assert hone_api("keys", "list", HONE_API_PORT="", **data).returncode == 0
    assert "HONE_API_PORT" in refused("serve", HONE_API_PORT="many", **data)
    assert "70000 is no port" in refused("serve", "--port", "70000", **data)


def test_what_keys_cannot_be_is_told(tmp_path: Path) -> None:
    data = {"HONE_API_DATA": str(tmp_path)}
    assert "scope 'all': there are files" in refused("keys", "create", "--scopes", "all", **data)
    assert "no key has the id 'key_nothing'" in refused("keys", "revoke", "key_nothing", **data)
    assert "mysql" in refused("keys", "list", HONE_API_DATABASE="mysql://host/name", **data)


def test_a_port_that_is_taken_may_be_free_later(tmp_path: Path) -> None:
    api = stand_in_api(tmp_path)
    with socket.create_server(("127.0.0.1", api.port)):
        done = serving(api)
    assert (done.returncode, f"port {api.port}" in done.stderr) == (75, True), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_data_that_another_api_has_may_be_free_later(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        done = serving(api)
        assert done.returncode == 75, done.stderr
        assert done.stderr.startswith(f"error: another hone-api works on {api.data}")
        assert api.data.stat().st_mode & 0o777 == 0o700
        # Whoever makes a key works on the database alone, so it may be done meanwhile.
        assert api.new_key().startswith("hone-")


def test_a_stream_ends_before_an_api_that_is_asked_to_end(tmp_path: Path) -> None:
    with stand_in("stand-in-base") as server:
        servers = [{"url": server.url, "base": "stand-in-base"}]
        with running_api(tmp_path, servers=servers) as api:
            asked = {
                "model": "stand-in",
                "messages": [],
                "stream": True,
                "stand_in": {"tokens": 30, "pace": 0.1},
            }
            headers = {"Authorization": f"Bearer {api.key}"}
            url = f"{api.url}/v1/chat/completions"
            with httpx.stream("POST", url, json=asked, headers=headers, timeout=60) as answer:
                pieces = answer.iter_bytes()
                first = next(pieces)
                assert api.process is not None
                api.process.send_signal(signal.SIGTERM)
                told = first + b"".join(pieces)
            assert told.count(b'"content"') == 30
            assert told.endswith(b"data: [DONE]\n\n")
            assert api.process.wait(timeout=60) == 0
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{api.url}/health")
            # It was written down when the api ended.
            [used] = json.loads(api.command("usage", "--json", "--project", "default"))
            assert (used["model"], used["requests"], used["completion_tokens"]) == ("stand-in", 1, 4)


def test_every_line_of_the_log_is_an_event(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        url = f"{api.url}/v1/files"
        known = httpx.get(url, headers={"Authorization": f"Bearer {api.key}"}).headers["x-request-id"]
        unknown = httpx.get(url).headers["x-request-id"]
        wait_for(lambda: unknown in api.log)
        assert api.end() == 0
    events = [json.loads(line) for line in log_of(api)]
    assert {event["service"] for event in events} == {"api"}
    told = {event["data"].get("request_id"): event["data"] for event in events if event["event"] == "request"}
    assert (told[known]["status"], told[known]["route"]) == (200, "/v1/files")
    assert told[known]["key"].startswith("key_")
    assert (told[unknown]["status"], told[unknown]["key"]) == (401, None)
    # Neither the key itself, nor what it begins with.
    assert api.key not in api.log
