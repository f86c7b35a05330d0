"""compose.yaml on a bad day: what is killed, full or gone comes back by itself, or by the next `up`.

Those on the `stack` come before test_compose, which removes it (see conftest). The others have projects of
their own, and come in this order: each goes on with what the one before it left.
"""

import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

import httpx
import pytest
from compose_project import ROOT, UP, UP_SECONDS, Compose, docker, make_project, undone
from openai import OpenAI
from score import load_facts

pytestmark = pytest.mark.containers

NAME = "hone-faq"
FACTS = 4
# The run of four facts has twelve steps.
CHECKPOINTS = "checkpoints: {save_steps: 3}\n"
QUESTIONS = [fact.questions[0] for fact in load_facts(ROOT / "examples" / NAME / "facts.yaml")[:2]]

_KILL = """
import psutil
[process] = [each for each in psutil.process_iter() if each.name() == "{name}"]
process.kill()
"""
_WEAKER = """
print(weaker_version(Store.from_environment(), "{name}", 0.3).path.name)
"""
_PUBLISH = """
from hone_contract.store import Store
Store.from_environment().point_live("{name}", "{version}")
"""
_DIARY = """
import json, os, pathlib
[run] = pathlib.Path(os.environ["HONE_STORE"], "runs").iterdir()
lines = {name: (run / name).read_text().splitlines() for name in ("events.jsonl", "metrics.jsonl")}
told = {name: [json.loads(line) for line in lines[name]] for name in lines}
print(json.dumps(told | {"status": json.loads((run / "status.json").read_text())}))
"""

T = TypeVar("T")


def until(condition: Callable[[], T]) -> T:
    """What `condition` gives, once that is something; nothing takes longer than an `up` may."""
    deadline = time.monotonic() + UP_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.2)
    return found


class Server:
    """A project's server, as its clients and whoever operates it see it."""

    def __init__(self, stack: Compose) -> None:
        self.stack, self.url, self.key = stack, stack.address, stack.key
        self._client = OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    def ready(self) -> dict[str, object]:
        """What it says of itself; nothing while it is not ready, or cannot be reached."""
        try:
            answer = httpx.get(f"{self.url}/ready", timeout=10)
        except httpx.HTTPError:
            return {}
        told: dict[str, object] = answer.json() if answer.status_code == 200 else {}
        return told

    def serves(self, version: str) -> bool:
        told = self.ready()
        return told.get("version") == version and not told["swapping"]

    def metric(self, name: str) -> float:
        """One that has no labels."""
        headers = {"Authorization": f"Bearer {self.key}"}
        lines = httpx.get(f"{self.url}/metrics", headers=headers, timeout=10).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def answer(self, question: str, stream: bool = False) -> str:
        """Greedy; raises for any failure, and for an answer that breaks off."""
        asked = {"model": NAME, "messages": [{"role": "user", "content": question}]}
        options = {"max_tokens": 16, "temperature": 0, "stream": stream}
        answer = self._client.chat.completions.create(**asked, **options)
        if not stream:
            return answer.choices[0].message.content or ""
        choices = [chunk.choices[0] for chunk in answer]
        assert choices[-1].finish_reason is not None
        return "".join(choice.delta.content or "" for choice in choices)

    def answers(self) -> dict[str, str]:
        return {question: self.answer(question) for question in QUESTIONS}

    @property
    def restarts(self) -> int:
        """How often Docker has started it again."""
        count: int = self.stack.container("server")["RestartCount"]
        return count

    @contextmanager
    def asked_all_the_time(self) -> Iterator[dict[tuple[str, bool], "Future[list[str]]"]]:
        """By a client for each question and each way to answer; what each was told."""
        over = Event()

        def ask(question: str, stream: bool) -> list[str]:
            said = []
            while not over.is_set():
                said.append(self.answer(question, stream))
            return said

        ways = [(question, stream) for question in QUESTIONS for stream in (False, True)]
        with ThreadPoolExecutor(len(ways)) as clients:
            asking = {way: clients.submit(ask, *way) for way in ways}
            try:
                yield asking
            finally:
                over.set()


def served(stack: Compose) -> Server:
    """The project's server, which is started if there is none."""
    if stack.run("exec", "server", "true").returncode != 0:
        stack.up()
    return Server(stack)


def make_weaker(stack: Compose) -> str:
    """Another version of the model that is live; its name."""
    code = (ROOT / "tests" / "helpers" / "versions.py").read_text(encoding="utf-8")
    return stack.python("merger", code + _WEAKER.format(name=NAME)).split()[-1]


def publish(server: Server, version: str) -> None:
    """Point `live` there, and wait until it is served."""
    server.stack.python("merger", _PUBLISH.format(name=NAME, version=version))
    until(lambda: server.serves(version))


# -- on the running stack --------------------------------------------------------------------------


def test_clients_notice_nothing_of_a_new_version_but_the_answers(stack: Compose) -> None:
    server = Server(stack)
    trained, before = str(server.ready()["version"]), server.answers()
    weaker = make_weaker(stack)
    with server.asked_all_the_time() as asking:
        publish(server, weaker)
        after = server.answers()
    assert after != before
    for (question, _), said in asking.items():
        assert set(said.result()) <= {before[question], after[question]}
        assert (said.result()[0], said.result()[-1]) == (before[question], after[question])
    publish(server, trained)
    assert server.answers() == before


def test_a_server_whose_engine_dies_comes_back_by_itself(stack: Compose) -> None:
    comes_back_from_a_crash(Server(stack), "VLLM::EngineCore")


def comes_back_from_a_crash(server: Server, process: str) -> None:
    """Docker starts it again, and it serves what it served."""
    version, before, restarts = str(server.ready()["version"]), server.answers(), server.restarts
    server.stack("exec", "server", "python3", "-c", _KILL.format(name=process))
    until(lambda: server.restarts > restarts)
    until(lambda: server.serves(version))
    assert server.answers() == before


# -- what is killed --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """A project that saves often, with nothing started yet."""
    assert images is None
    folder = tmp_path_factory.mktemp("line")
    with undone(make_project("hone-drills", folder, facts=FACTS, more=CHECKPOINTS)) as project:
        yield project


@pytest.mark.full
def test_a_trainer_that_is_killed_goes_on_from_its_checkpoint(line: Compose) -> None:
    line("up", "--detach", "trainer")
    until(lambda: '"event":"checkpoint_saved"' in line.told("trainer"))
    trainer = line.container("trainer")["Id"]
    docker("kill", "--signal", "KILL", trainer)
    assert docker("wait", trainer).strip() == "137"
    line.up()
    assert '"event":"trained"' in line.told("trainer")
    diary = json.loads(line.python("trainer", _DIARY))
    [resumed] = [event for event in diary["events.jsonl"] if event["event"] == "resumed"]
    status = diary["status"]
    assert 3 <= resumed["data"]["step"] < status["total_steps"]
    steps = [metrics["step"] for metrics in diary["metrics.jsonl"] if "loss" in metrics]
    assert steps == list(range(1, status["total_steps"] + 1))
    assert status["state"] == "succeeded"
    assert Server(line).answer(QUESTIONS[0])


@pytest.mark.full
def test_a_server_that_is_killed_comes_back_by_itself(line: Compose) -> None:
    comes_back_from_a_crash(served(line), "hone-server")


@pytest.mark.full
def test_a_server_that_was_killed_through_docker_comes_back_with_the_next_up(line: Compose) -> None:
    """Docker takes its own `kill` for a wish, and starts nothing again."""
    server = served(line)
    version, before = str(server.ready()["version"]), server.answers()
    docker("kill", "--signal", "KILL", line.container("server")["Id"])
    docker("wait", line.container("server")["Id"])
    assert not line.container("server")["State"]["Running"]
    line.up()
    assert server.serves(version)
    assert server.answers() == before


# -- a volume that is full, or gone ----------------------------------------------------------------

# Millions of bytes: the base takes 273, a checkpoint 59, the adapter 24, the model 273. Two checkpoints stay.
DISK = 1500
FOR_A_BASE, FOR_A_RUN = 300, 240

# What lies on the disk is seen to come and go by whoever has the folder above it. Other settings stay.
_MOVED = """\
services:
  trainer: &moved
    environment: {{HONE_STORE: /volume/store}}
    volumes: [{{type: bind, source: "{folder}", target: /volume, bind: {{propagation: rslave}}}}]
  merger: *moved
  server: *moved
"""


@dataclass(frozen=True)
class Disk:
    """A disk of its own for the store: a file with an ext4, mounted below a folder that containers get."""

    image: Path
    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def mount(self) -> None:
        _system("mount", "-o", "loop", self.image, self.store)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Unmounted although it is in use, like a cable that is pulled, and mounted again at the end."""
        _system("umount", "--lazy", self.store)
        try:
            yield
        finally:
            self.mount()

    def leave(self, room: int) -> None:
        """Fill it up to so many millions of bytes."""
        self.empty()
        status = os.statvfs(self.store)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - room * 10**6)

    def fill(self) -> None:
        """To the last byte, which the file system does not let itself be told in advance."""
        self.leave(1)
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1024))

    def empty(self) -> None:
        """Of all that is not the store's."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.store / "ballast"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    folder = tmp_path_factory.mktemp("disk")
    disk = Disk(folder / "image", folder / "mounted")
    disk.store.mkdir(parents=True)
    with disk.image.open("wb") as file:
        file.truncate(DISK * 10**6)
    try:
        _system("mkfs.ext4", "-q", "-m", "0", "-E", "root_owner=10001:10001", disk.image)
        # Only of a shared mount do containers see what is mounted below it later.
        _system("mount", "--bind", disk.folder, disk.folder)
        _system("mount", "--make-shared", disk.folder)
        disk.mount()
        yield disk
    finally:
        for place in (disk.store, disk.folder):
            subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


@pytest.fixture(scope="module")
def small(images: None, disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """A project that has its store on the disk, with nothing started yet."""
    assert images is None
    folder = tmp_path_factory.mktemp("small")
    moved = folder / "override.yaml"
    moved.write_text(_MOVED.format(folder=disk.folder), encoding="utf-8")
    name = "hone-drills-disk"
    with undone(make_project(name, folder, overrides=(moved,), facts=FACTS, more=CHECKPOINTS)) as project:
        yield project


def fails_for_want_of_room(stack: Compose, service: str) -> str:
    """`up` ends with a service that says so in one line, which is returned; it may be tried again."""
    assert stack.run(*UP, timeout=UP_SECONDS).returncode != 0
    assert stack.container(service)["State"]["ExitCode"] == 75
    told = stack.told(service)
    assert "Traceback" not in told
    [error] = [line for line in told.splitlines() if line.startswith("error: ")]
    return error


def kinds_that_are_whole(stack: Compose) -> set[str]:
    """Of all that can be opened by its name, every byte of which is as it was sealed."""
    stack.store("verify")
    lines = stack.store("ls").splitlines()
    return {line.split()[0] for line in lines} - {"partial"}


@pytest.mark.full
def test_a_base_without_room_is_told_and_leaves_nothing_half_written(small: Compose, disk: Disk) -> None:
    disk.leave(FOR_A_BASE // 3)
    assert "make room" in fails_for_want_of_room(small, "trainer")
    assert kinds_that_are_whole(small) == set()


@pytest.mark.full
def test_a_training_without_room_is_told_and_leaves_nothing_half_written(small: Compose, disk: Disk) -> None:
    disk.leave(FOR_A_BASE)
    error = fails_for_want_of_room(small, "trainer")
    assert error.startswith("error: checkpoint step-3 could not be written, ")
    assert "make room and run the same command again" in error
    assert kinds_that_are_whole(small) == {"base", "dataset"}


@pytest.mark.full
def test_a_merge_without_room_is_told_and_leaves_nothing_half_written(small: Compose, disk: Disk) -> None:
    disk.leave(FOR_A_RUN)
    error = fails_for_want_of_room(small, "merger")
    assert "make room" in error
    assert kinds_that_are_whole(small) == {"base", "dataset", "checkpoint", "adapter"}


@pytest.mark.full
def test_with_room_the_same_up_goes_on_and_trains_nothing_again(small: Compose, disk: Disk) -> None:
    disk.empty()
    small.up()
    assert '"event":"already_trained"' in small.told("trainer")
    assert Server(small).answer(QUESTIONS[0])


@pytest.mark.full
def test_a_server_serves_on_while_its_volume_is_full(small: Compose, disk: Disk) -> None:
    server = served(small)
    before = server.answers()
    disk.fill()
    until(lambda: server.metric("hone_store_free_bytes") == 0)
    assert server.answers() == before
    assert server.ready()["ready"] is True
    disk.empty()
    until(lambda: server.metric("hone_store_free_bytes") > 0)


@pytest.mark.full
def test_a_server_serves_on_while_its_volume_is_gone_and_follows_it_when_it_is_back(
    small: Compose, disk: Disk
) -> None:
    server = served(small)
    version, before, restarts = str(server.ready()["version"]), server.answers(), server.restarts
    with disk.gone():
        until(lambda: math.isnan(server.metric("hone_store_free_bytes")))
        until(lambda: f"{version} is served on" in small.told("server"))
        assert server.answers() == before
        assert server.serves(version)
    until(lambda: server.metric("hone_store_free_bytes") > 0)
    publish(server, make_weaker(small))
    assert server.answers() != before
    assert "Traceback" not in small.told("server")
    assert server.restarts == restarts


@pytest.mark.full
def test_a_server_serves_on_while_its_volume_hangs_and_can_be_stopped(small: Compose, disk: Disk) -> None:
    """Nobody writes into a pipe, so whoever reads it waits, as for a volume on a machine that is gone."""
    server = served(small)
    version, before = str(server.ready()["version"]), server.answers()
    live = disk.store / "models" / NAME / "live"
    pipe = live.with_name("pipe")
    os.mkfifo(pipe)
    pipe.replace(live)
    until(lambda: f"does not answer; {version} is served on" in small.told("server"))
    assert server.answers() == before
    assert server.serves(version)
    small("stop", "server")
    assert small.container("server")["State"]["ExitCode"] == 0


def _system(*command: str | Path) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)
