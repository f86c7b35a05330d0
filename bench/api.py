"""hone-api: jobs in SQLite, and then streams through its proxy (`make bench-api`).

10,000 jobs that have ended are in the database, written there directly, each with one pair of metadata; a
tenth of them has `team=0`. `hone-api serve` runs with one key and its reconcile loop. The client is this
process, with one connection that is kept open, one request after the other. A turn is 50 requests of each
kind: create (a job whose file is known to be bad, so that the loop ends it at its next look, in a transaction
beside the requests), list (20 jobs, the newest), list with `metadata[team]=0` (20 of 1,000), and retrieve
(any of the 10,000). Before or after it, as the turns alternate, are 50 requests to a bare FastAPI route that
answers a constant, in a uvicorn of the same settings: no other project has this API, so what FastAPI itself
takes is what there is to compare with. There are ten pairs of turns, after one that is not counted.

`…_p50_ms` and `…_p99_ms` are over all requests of a kind, from the first byte sent to the last one read; the
ratio is the median, over the pairs, of a kind's median over the bare route's. Every answer is checked for its
status. Then come the figures of bench/api_streams.py, whose docstring tells of them. The last line printed
is JSON.

Run it on an idle machine.
"""

import argparse
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import api_streams
import uvicorn
from fastapi import FastAPI
from servers import free_port, running
from sqlalchemy import insert, select

from hone_api.database.session import Database
from hone_api.database.tables import File, Job, Label, Project
from hone_api.ids import new_id

JOBS, TEAMS, PAIRS, EACH = 10_000, 10, 10, 50
MODEL, FILE = "bench", "file-bench"
KINDS = ("create", "list", "list_by_metadata", "retrieve")

Ask = Callable[[], float]
"""One request; seconds."""


@dataclass(frozen=True)
class Client:
    """A connection that is kept open."""

    connection: HTTPConnection
    key: str = ""

    def ask(self, path: str, body: bytes | None = None) -> float:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        begin = time.perf_counter()
        self.connection.request("GET" if body is None else "POST", path, body, headers)
        answer = self.connection.getresponse()
        told = answer.read()
        seconds = time.perf_counter() - begin
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {told[:500]!r}")
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="hone-api's jobs and streams.")
    parser.add_argument("--stream-pairs", type=int, default=20, help="of bench/api_streams.py's turns")
    parser.add_argument("--bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        _serve_bare(options.bare)
        return
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as name, _sides(Path(name)) as (kinds, bare):
        jobs = _measure(kinds, bare)
    told = {
        "bench": "api",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "jobs": JOBS,
        "requests": PAIRS * EACH,
        **jobs,
        **_streams(options.stream_pairs),
    }
    print(json.dumps(told))


@contextmanager
def _sides(folder: Path) -> Iterator[tuple[dict[str, Ask], Ask]]:
    """What asks hone-api for each kind, and what asks the bare route."""
    settings, data = folder / "hone-api.yaml", folder / "data"
    told = {
        "data": str(data),
        "models": {MODEL: {"base": "demo:bench"}},
        # None of the jobs is refused, however many wait for the loop's next look.
        "limits": {"project_jobs": JOBS},
    }
    settings.write_text(json.dumps(told), encoding="utf-8")
    command = ["hone_api", "--config", str(settings)]
    made = [sys.executable, "-m", *command, "keys", "create"]
    key = subprocess.run(made, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    ids = _fill(f"sqlite:///{data / 'hone-api.db'}")
    port, bare_port = free_port(), free_port()
    with (
        running([*command, "serve", "--port", str(port)], port, "/ready", folder / "api.log"),
        running(["api", "--bare", str(bare_port)], bare_port, "/", folder / "bare.log"),
    ):
        bare = Client(HTTPConnection("127.0.0.1", bare_port))
        yield _kinds(Client(HTTPConnection("127.0.0.1", port), key), ids), lambda: bare.ask("/")


def _kinds(client: Client, ids: list[str]) -> dict[str, Ask]:
    jobs, chosen = "/v1/fine_tuning/jobs", random.Random(0)
    asked = {"model": MODEL, "training_file": FILE, "metadata": {"team": "new"}, "seed": 1}
    body = json.dumps(asked).encode()
    return {
        "create": lambda: client.ask(jobs, body),
        "list": lambda: client.ask(f"{jobs}?limit=20"),
        "list_by_metadata": lambda: client.ask(f"{jobs}?limit=20&metadata[team]=0"),
        "retrieve": lambda: client.ask(f"{jobs}/{chosen.choice(ids)}"),
    }


def _measure(kinds: dict[str, Ask], bare: Ask) -> dict[str, object]:
    seconds: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "bare")}
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for pair in range(-1, PAIRS):
        sides: list[tuple[str, Ask]] = [*kinds.items()]
        sides.insert(len(sides) if pair % 2 else 0, ("bare", bare))
        turn = {kind: [ask() for _ in range(EACH)] for kind, ask in sides}
        if pair < 0:
            continue
        for kind, taken in turn.items():
            seconds[kind] += taken
        for kind in KINDS:
            ratios[kind].append(statistics.median(turn[kind]) / statistics.median(turn["bare"]))
        told = {kind: round(statistics.median(taken) * 1e3, 2) for kind, taken in turn.items()}
        sys.stderr.write(f"pair {pair + 1}: medians in ms {told}\n")
    figures: dict[str, object] = {}
    for kind, taken in seconds.items():
        hundredths = statistics.quantiles(taken, n=100)
        figures[f"{kind}_p50_ms"] = round(hundredths[49] * 1e3, 2)
        figures[f"{kind}_p99_ms"] = round(hundredths[98] * 1e3, 2)
    return figures | {f"{kind}_ratio": round(statistics.median(ratios[kind]), 2) for kind in KINDS}


def _streams(pairs: int) -> dict[str, object]:
    """What the other bench prints, without what this one says as well."""
    told, sys.argv = io.StringIO(), ["api_streams.py", "--pairs", str(pairs)]
    with redirect_stdout(told):
        api_streams.main()
    figures: dict[str, object] = json.loads(told.getvalue().splitlines()[-1])
    return {name: value for name, value in figures.items() if name not in ("bench", "date", "machine")}


def _fill(url: str) -> list[str]:
    """The jobs, and a file that was found bad; returns the jobs' ids."""
    database = Database(url)
    with database.writing() as session:
        project = session.scalars(select(Project.id)).one()
        session.add(_bad_file(project))
        jobs = [_job(project, number) for number in range(1, JOBS + 1)]
        session.execute(insert(Job), jobs)
        labels = [
            {"job_number": job["number"], "key": "team", "value": job["labels"]["team"]} for job in jobs
        ]
        session.execute(insert(Label), labels)
    database.close()
    return [job["id"] for job in jobs]


def _bad_file(project: str) -> File:
    return File(
        id=FILE,
        project_id=project,
        digest="0" * 64,
        bytes=1,
        filename="bad.jsonl",
        purpose="fine-tune",
        status="error",
        status_details="line 1: not JSON",
        records=None,
        created_at=int(time.time()),
        expires_at=None,
    )


def _job(project: str, number: int) -> dict[str, Any]:
    chosen = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
    return {
        "number": number,
        "id": new_id("ftjob-"),
        "project_id": project,
        "created_at": 1_760_000_000 + number,
        "model": MODEL,
        "training_file": FILE,
        "method": {"type": "supervised"},
        "resolved": chosen,
        "suffix": "bench",
        "seed": number,
        "labels": {"team": str(number % TEAMS)},
        "status": ("succeeded", "failed", "cancelled")[number % 3],
        "stage": "deploy",
        "attempt": 2,
        "failures": 0,
        "not_before": 0,
        "progress": {"read": 100, "step": 10, "judged": 10},
        "fine_tuned_model": f"ft:{MODEL}:hone:bench:{number:08}",
        "finished_at": 1_760_001_000 + number,
        "trained_tokens": 100_000,
        "result_files": [new_id("file-")],
        "request_digest": new_id(""),
    }


def _serve_bare(port: int) -> None:
    app = FastAPI()

    @app.get("/")
    def constant() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        # Its connection is idle while the other side has its turn.
        timeout_keep_alive=600,
    )


if __name__ == "__main__":
    main()
