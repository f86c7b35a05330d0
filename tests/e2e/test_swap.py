"""A running server takes other versions of its model, and keeps the one it has when in doubt."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import httpx
import psutil
import pytest
from chain import Demo, Running, control, hone_server, published_copy
from versions import WEIGHTS, base_in_disguise, changed_version, flip_a_bit, weaker_version

from hone_contract.artifact import Artifact
from hone_contract.store import Store

pytestmark = pytest.mark.chain

NAME = "hone-faq"
QUESTIONS = ("Which file in an artifact is written last?", "What is Hone?", "Who writes the manifest?")


@dataclass(frozen=True)
class Swappable:
    """A server of its own store, and two versions that answer differently."""

    running: Running
    store: Store
    trained: str
    weaker: str

    def ready(self) -> dict[str, object]:
        told: dict[str, object] = httpx.get(f"{self.running.url}/ready", timeout=60).json()
        return told

    def answer(self, question: str) -> str:
        """Greedy; raises for any answer but 200."""
        asked = {"model": NAME, "messages": [{"role": "user", "content": question}]}
        answer = httpx.post(
            f"{self.running.url}/v1/chat/completions",
            json={**asked, "max_tokens": 16, "temperature": 0},
            timeout=120,
        )
        answer.raise_for_status()
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def answers(self) -> dict[str, str]:
        return {question: self.answer(question) for question in QUESTIONS}

    def swap(self, version: str) -> int:
        """The exit code of `hone-server swap`."""
        return self.control("swap", "--to", version, "--wait", "240")

    def control(self, name: str, *arguments: str) -> int:
        return control(name, self.store.root, self.running.url, *arguments).returncode

    def log_since(self, place: int) -> str:
        return self.running.log.read_text()[place:]

    def wait_for_log(self, wanted: str, since: int) -> None:
        while wanted not in self.log_since(since):
            assert self.running.process.poll() is None, self.log_since(since)[-3000:]
            time.sleep(0.1)


@pytest.fixture(scope="module")
def swappable(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swappable]:
    folder = tmp_path_factory.mktemp("swap")
    store = published_copy(demo, folder / "store")
    trained = store.read_live(NAME) or ""
    weaker = weaker_version(store, NAME).path.name
    with hone_server(store.root, folder / "log", "--hang", "5") as running:
        running.wait_until_ready()
        yield Swappable(running, store, trained, weaker)


@pytest.fixture
def place(swappable: Swappable) -> int:
    """Where the log stands; what is live before and after is what was trained."""
    if swappable.ready()["version"] != swappable.trained:
        assert swappable.swap(swappable.trained) == 0
    return len(swappable.running.log.read_text())


def test_clients_notice_nothing_of_a_swap_but_the_answers(swappable: Swappable, place: int) -> None:
    before = swappable.answers()
    over = Event()

    def ask(question: str) -> list[str]:
        said = []
        while not over.is_set():
            said.append(swappable.answer(question))
        return said

    with ThreadPoolExecutor(len(QUESTIONS)) as clients:
        asking = {question: clients.submit(ask, question) for question in QUESTIONS}
        try:
            assert swappable.swap(swappable.weaker) == 0
            after = swappable.answers()
        finally:
            over.set()
    assert after != before
    assert swappable.ready()["version"] == swappable.weaker
    for question, said in asking.items():
        # Nothing in between: no answer began with the weights of one and went on with the other's.
        assert set(said.result()) <= {before[question], after[question]}
    assert swappable.control("rollback") == 0
    assert swappable.answers() == before
    assert swappable.log_since(place).count('"event":"swapped"') == 2


def test_the_models_card_tells_the_version_and_where_it_comes_from(swappable: Swappable, place: int) -> None:
    assert place
    [card] = httpx.get(f"{swappable.running.url}/v1/models").json()["data"]
    assert card["version"] == swappable.trained
    assert card["digest"] == swappable.ready()["digest"]
    assert card["base"] == "demo--smollm2-135m-instruct"
    told = httpx.get(f"{swappable.running.url}/metrics").text
    assert f'version="{swappable.trained}"' in told
    assert "hone_swaps_total" in told


def _nothing(_: Artifact, __: Path) -> None:
    pass


def _another_tokenizer(_: Artifact, folder: Path) -> None:
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")


def test_a_corrupted_shard_is_not_served(swappable: Swappable, place: int) -> None:
    flip_a_bit(changed_version(swappable.store, NAME, "corrupt", _nothing).path / WEIGHTS)
    swappable.store.point_live(NAME, "corrupt")
    swappable.wait_for_log("has changed since it was sealed", place)
    _is_served_as_before(swappable, place)


def test_another_tokenizer_is_not_served(swappable: Swappable, place: int) -> None:
    changed_version(swappable.store, NAME, "tokenizer", _another_tokenizer)
    assert swappable.swap("tokenizer") == 65
    _is_served_as_before(swappable, place)


def test_the_base_by_mistake_is_taken_back(swappable: Swappable, place: int) -> None:
    before = swappable.answers()
    base_in_disguise(swappable.store, NAME)
    assert swappable.swap("base") == 65
    assert "the served model equals its base" in str(swappable.ready()["refused"])
    assert "rolling_back" in swappable.log_since(place)
    assert swappable.answers() == before
    _is_served_as_before(swappable, place)


def test_live_pointing_at_nothing_changes_nothing(swappable: Swappable, place: int) -> None:
    (swappable.store.live(NAME)).write_text("no-such-version\n")
    swappable.wait_for_log("no-such-version is not served", place)
    _is_served_as_before(swappable, place)


def test_a_volume_that_is_gone_changes_nothing(swappable: Swappable, place: int) -> None:
    away = swappable.store.root.with_name("away")
    swappable.store.root.rename(away)
    try:
        swappable.wait_for_log("is served on", place)
        assert swappable.answer(QUESTIONS[0])
        assert swappable.ready()["ready"] is True
    finally:
        away.rename(swappable.store.root)
    _is_served_as_before(swappable, place)


def test_a_pointer_that_moves_a_thousand_times_is_left_to_settle(swappable: Swappable, place: int) -> None:
    versions = (swappable.weaker, swappable.trained)
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(lambda: [swappable.answer(QUESTIONS[0]) for _ in range(20)])
        for number in range(1000):
            swappable.store.point_live(NAME, versions[number % 2])
            time.sleep(0.01)
        assert len(asking.result()) == 20
    assert swappable.swap(swappable.weaker) == 0
    # Whatever it read by chance twice in a row; never one swap a move.
    assert swappable.log_since(place).count('"event":"swapped"') <= 10


def test_a_version_for_another_engine_is_served_by_a_new_one(swappable: Swappable, place: int) -> None:
    """In the same process and on the same socket, with 503 in between."""

    def sample_otherwise(_: Artifact, folder: Path) -> None:
        (folder / "generation_config.json").write_text('{"top_k": 17}')

    assert place
    changed_version(swappable.store, NAME, "sampled", sample_otherwise)
    swappable.store.point_live(NAME, "sampled")
    refused = _first(lambda: httpx.get(f"{swappable.running.url}/v1/models"), status=503)
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "not_ready"
    swappable.running.wait_until_ready()
    assert swappable.ready()["version"] == "sampled"
    assert swappable.ready()["previous"] == swappable.trained


def test_an_engine_that_hangs_is_a_failure_to_retry(swappable: Swappable) -> None:
    """Last in this module: it ends the shared server."""
    children = psutil.Process(swappable.running.process.pid).children(recursive=True)
    engine = [child for child in children if "VLLM" in " ".join([child.name(), *child.cmdline()])]
    for child in engine:
        child.send_signal(signal.SIGSTOP)
    assert swappable.running.process.wait(timeout=120) == 75
    assert not [child for child in engine if child.is_running()]
    assert "the engine hung" in swappable.running.log.read_text()


def _first(get: Callable[[], httpx.Response], status: int) -> httpx.Response:
    while (answer := get()).status_code != status:
        time.sleep(0.05)
    return answer


def _is_served_as_before(swappable: Swappable, place: int) -> None:
    assert swappable.ready()["version"] == swappable.trained
    assert swappable.ready()["swapping"] is False
    assert '"event":"swapped"' not in swappable.log_since(place)
    assert "Traceback" not in swappable.log_since(place)
    swappable.store.point_live(NAME, swappable.trained)
