"""One GPU for training and serving: which of them waits, and that the events say so."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from api_process import examples, messages, reaches, running_api, upload, wait_for

pytestmark = pytest.mark.chain

# Adds a word to a file, as a stand-in for stopping and starting servers.
_WRITE = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + chr(10))"


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_training_waits_until_nobody_serves(tmp_path: Path) -> None:
    with _serving() as server:
        upstream = {"url": f"http://127.0.0.1:{server.server_port}", "base": "another-base"}
        with running_api(tmp_path, servers=[upstream], local={"serving": "wait"}) as api:
            client = api.client()
            job = client.fine_tuning.jobs.create(
                model="stand-in", training_file=upload(client, examples("steps=2"))
            )
            wait_for(lambda: any("until serving has ended" in told for told in messages(client, job.id)))
            assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
            server.shutdown()
            server.server_close()
            reaches(client, job.id, "succeeded")
            assert sum("until serving has ended" in told for told in messages(client, job.id)) == 1


def test_serving_is_paused_for_as_long_as_jobs_train(tmp_path: Path) -> None:
    told = tmp_path / "told"
    write = [sys.executable, "-c", _WRITE, str(told)]
    local = {"serving": "pause", "pause_command": [*write, "pause"], "resume_command": [*write, "resume"]}
    with running_api(tmp_path / "api", local=local) as api:
        client = api.client()
        jobs = [
            client.fine_tuning.jobs.create(
                model="stand-in", training_file=upload(client, examples(f"steps={steps}")), seed=1
            )
            for steps in (2, 3)
        ]
        for job in jobs:
            reaches(client, job.id, "succeeded")
            assert "Serving is paused while the job trains: they share the GPU" in messages(
                client, jobs[0].id
            )
        wait_for(lambda: told.read_text().splitlines()[-1] == "resume")
        assert told.read_text().splitlines() == ["pause", "resume"]
