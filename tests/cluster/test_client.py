"""The client that runs in the cluster's pods, against the real api with stand-ins for its stages."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import client
import pytest
from answering import answering
from api_process import Api, examples, running_api
from api_upstream import stand_in

BASE = "stand-in-base"
# It looks oftener than in a cluster.
SCRIPT = "import client, sys; client.EVERY = 0.1; sys.exit(client.main())"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with (
        stand_in(BASE) as upstream,
        running_api(
            tmp_path_factory.mktemp("api"),
            servers=[{"url": upstream.url, "base": BASE, "key_variable": "NONE"}],
        ) as here,
    ):
        yield here


class Client:
    """One that runs."""

    def __init__(self, api: Api, *words: str) -> None:
        told = {"HONE_URL": f"{api.url}/v1", "HONE_API_KEY": api.key}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *words],
            cwd=Path(client.__file__).parent,
            env={**os.environ, **told},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["event"] == event:
                return told
        raise AssertionError(f"never said {event}: {self.end()}")

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said to people."""
        _, said = self._process.communicate(timeout=60)
        return self._process.returncode, said


@pytest.mark.chain
def test_a_client_follows_its_job_until_another_one_cancels_it(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_bytes(examples("steps=4000"))
    tunes = Client(api, "tune", "60", "stand-in", "adapter", str(file), "1", "8")
    job = tunes.until("created")["job"]
    tunes.until("running")
    first = tunes.until("step")["step"]
    assert tunes.until("step")["step"] > first
    assert Client(api, "cancel", "60", job).end() == (0, "")
    tunes.until("cancelled")
    assert tunes.end() == (0, "")


@pytest.mark.chain
def test_a_client_asks_for_a_merged_model_and_deletes_it(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_bytes(examples())
    tunes = Client(api, "tune", "60", "stand-in", "merged", str(file), "1", "8")
    job, model = tunes.until("created")["job"], tunes.until("succeeded")["model"]
    assert tunes.end() == (0, "")
    # Under this name the drill finds its server.
    assert api.store.published() == [job]
    assert Client(api, "delete", "60", model).end() == (0, "")
    assert model not in [each.id for each in api.client().models.list()]


@pytest.mark.chain
def test_what_the_api_will_not_take_is_told(api: Api) -> None:
    code, said = Client(api, "cancel", "60", "ftjob-none").end()
    assert code == 1
    assert said.startswith("error: /fine_tuning/jobs/ftjob-none/cancel: HTTP Error 404")


@pytest.mark.chain
def test_a_model_is_asked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_URL", f"{api.url}/v1")
    monkeypatch.setenv("HONE_API_KEY", api.key)
    assert client.answer("stand-in", "What is the licence of Hone?")


class _Away(BaseHTTPRequestHandler):
    """Twice it is not there."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(503 if self.asked < 3 else 200)
        self.end_headers()
        self.wfile.write(b'{"status": "running"}')

    def log_message(self, *args: object) -> None:
        """No access log."""


def test_an_api_that_is_away_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(ThreadingHTTPServer(("127.0.0.1", 0), _Away)) as server:
        monkeypatch.setenv("HONE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HONE_API_KEY", "any")
        monkeypatch.setattr(client, "EVERY", 0.01)
        with pytest.raises(HTTPError):
            client.ask("/job")
        monkeypatch.setattr(client, "deadline", time.monotonic() + 60)
        assert client.ask("/job") == {"status": "running"}
    told = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["away", "back"]
