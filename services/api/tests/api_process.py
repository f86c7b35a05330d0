"""The real command `hone-api serve` on a folder of its own, whose stages are stand-ins or real ones."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from openai import AsyncOpenAI, OpenAI
from stand_ins.stage import make_base

from hone_contract.store import Store

STAND_IN = Path(__file__).parent / "stand_ins" / "stage.py"
_SECONDS = 60


@dataclass
class Api:
    """One api, begun and killed as a test likes."""

    folder: Path
    settings: dict[str, Any]
    port: int
    key: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> Store:
        return Store(Path(self.settings["store"]))

    @property
    def data(self) -> Path:
        return Path(self.settings["data"])

    def command(self, *arguments: str) -> str:
        """What one command prints."""
        return subprocess.run(
            [*self._command, *arguments], env=self._environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    def new_key(self, project: str = "default", scopes: str = "files,tune,chat") -> str:
        return self.command("keys", "create", "--project", project, "--scopes", scopes)

    def client(self, key: str | None = None, **options: Any) -> OpenAI:
        return OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key, _strict_response_validation=True, **options
        )

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, _strict_response_validation=True)

    def start(self) -> None:
        """Returns when it answers."""
        with (self.folder / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "serve", "--port", str(self.port)],
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        until = time.monotonic() + _SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """As an orchestrator ends it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=_SECONDS)

    @property
    def log(self) -> str:
        return (self.folder / "api.log").read_text(encoding="utf-8")[-4000:]

    def stage_processes(self) -> list[psutil.Process]:
        """Whatever runs for this api, begun by whichever of its processes."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in word for word in process.info["cmdline"] or ()) and (
                self.process is None or process.pid != self.process.pid
            ):
                found.append(process)
        return found

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for process in self.stage_processes():
            process.kill()

    @property
    def _command(self) -> list[str]:
        return [sys.executable, "-m", "hone_api", "--config", str(self.folder / "hone-api.yaml")]

    @property
    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}
        return ours | self.variables

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=1).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_api(folder: Path, database: str = "", **more: Any) -> Iterator[Api]:
    """One that runs, with stand-ins for its stages and a key for everything but `admin`."""
    api = stand_in_api(folder, database, **more)
    try:
        api.start()
        yield api
    finally:
        api.clean_up()


def stand_in_api(folder: Path, database: str = "", **more: Any) -> Api:
    folder.mkdir(parents=True, exist_ok=True)
    stage = [sys.executable, str(STAND_IN)]
    settings = {
        "store": str(folder / "store"),
        "data": str(folder / "data"),
        "database": database,
        "models": {"stand-in": {"base": "/bases/stand-in-base"}},
        "commands": {
            # In a cluster, that of a stage's own image.
            "check": [sys.executable, "-m", "hone_trainer", "check"],
            "train": [*stage, "train"],
            "import": [*stage, "import-adapter"],
            "merge": [*stage, "merge"],
        },
        "local": {"slots": 2, "retry_seconds": 0.1, "stop_seconds": 20},
        **more,
    }
    (folder / "hone-api.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    api = Api(folder, settings, _free_port())
    if not api.store.base("stand-in-base").exists():
        make_base(api.store)
    api.key = api.new_key()
    return api


def examples(text: str = "steps=6", count: int = 12) -> bytes:
    """A training file; the first example tells the stand-in what to do."""
    asked = [text, *(f"Question {number}?" for number in range(1, count))]
    lines = [
        {"messages": [{"role": "user", "content": each}, {"role": "assistant", "content": "Yes."}]}
        for each in asked
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def upload(client: OpenAI, content: bytes) -> str:
    return client.files.create(file=("train.jsonl", content), purpose="fine-tune").id


def wait_for(done: Callable[[], Any], what: str = "it", seconds: float = _SECONDS) -> Any:
    """What `done` gives as soon as it is true."""
    until = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < until, f"{what} did not happen"
        time.sleep(0.05)
    return found


def reaches(client: OpenAI, job_id: str, *statuses: str, seconds: float = _SECONDS) -> Any:
    """The job, once it has one of these states."""

    def look() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in statuses else None

    return wait_for(look, f"{job_id} {statuses}", seconds)


def messages(client: OpenAI, job_id: str) -> list[str]:
    """Of all events, the oldest first."""
    return [each.message for each in client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]


def _free_port() -> int:
    """Below those that a kernel gives away: while an api is down, nobody else's test gets its port."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
