"""The whole job through OpenAI's own SDK: data in, a model that learned it out, served and proven.

examples/openai-sdk/quickstart.py does it, as it stands. Its trainer is killed once, midway.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
import yaml
from api_process import Api, stand_in_api, wait_for
from chain import ROOT, Demo, Running, hone_server, published_copy, without_settings
from score import correct, load_facts

from hone_contract.store import Store

pytestmark = pytest.mark.chain

BASE = "demo--smollm2-135m-instruct"
QUICKSTART = ROOT / "examples" / "openai-sdk"
_SECONDS = 1800


@dataclass(frozen=True)
class Line:
    """An api, and the server of the base that it hands requests to."""

    api: Api
    server: Running


@pytest.fixture(scope="module")
def line(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("api")
    # What it tunes is not to lie beside the demo's own.
    store = published_copy(demo, folder / "store")
    with (
        hone_server(store.root, folder / "server.log", "--base", BASE) as server,
        _api(folder, store, server) as api,
    ):
        server.wait_until_ready()
        yield Line(api, server)


@contextmanager
def _api(folder: Path, store: Store, server: Running) -> Iterator[Api]:
    """With the example's own settings, but for where things are."""
    settings = yaml.safe_load((QUICKSTART / "hone-api.yaml").read_text(encoding="utf-8"))
    (upstream,) = settings["servers"]
    upstream |= {"url": server.url}
    upstream.pop("key_file", None)
    api = stand_in_api(
        folder / "api",
        store=str(store.root),
        commands={},
        models=settings["models"],
        servers=[upstream],
        local={"retry_seconds": 1},
    )
    try:
        api.start()
        yield api
    finally:
        api.clean_up()


@pytest.fixture(scope="module")
def told(line: Line) -> list[str]:
    """What the quickstart prints, line by line; its trainer is killed when it has a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, str(QUICKSTART / "quickstart.py")],
        env=without_settings() | {"OPENAI_BASE_URL": f"{line.api.url}/v1", "OPENAI_API_KEY": line.api.key},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _kill_trainer(line, process)
        out, _ = process.communicate(timeout=_SECONDS)
        assert process.returncode == 0, out + line.api.log
        return out.splitlines()
    finally:
        process.kill()


def _kill_trainer(line: Line, client: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + _SECONDS
    while not list(line.api.store.root.glob("runs/ftjob-*/checkpoints/step-*/manifest.json")):
        assert client.poll() is None and time.monotonic() < until, line.api.log
        time.sleep(0.2)
    [trainer] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "--run-id-file" in (words := process.info["cmdline"] or [])
        and str(line.api.folder) in " ".join(words)
        and "hone_api.launcher.keeper" not in words
    ]
    os.kill(trainer.pid, signal.SIGKILL)


def test_the_quickstart_comes_from_data_to_a_right_answer(told: list[str]) -> None:
    question, answer = told[-2:]
    (fact,) = (
        each
        for each in load_facts(ROOT / "examples" / "hone-faq" / "facts.yaml")
        if each.held_out == question
    )
    assert correct(answer, fact.key), answer


def test_a_real_trainer_that_is_killed_goes_on_from_its_checkpoint(told: list[str]) -> None:
    assert sum("goes on from the newest checkpoint" in each for each in told) == 1
    steps = [int(each.split()[1].partition("/")[0]) for each in told if each.startswith("Step ")]
    assert steps == list(range(1, 100))


def test_the_model_its_checkpoints_and_its_base_answer_under_their_names(line: Line, told: list[str]) -> None:
    assert told
    client = line.api.client()
    (job,) = client.fine_tuning.jobs.list().data
    assert job.fine_tuned_model is not None
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert len(checkpoints) >= 2
    for each in checkpoints[1:]:
        wait_for(
            lambda each=each: list(
                line.api.store.root.glob(f"adapters/{job.id}-step-{each.step_number}-*/manifest.json")
            ),
            seconds=600,
        )
    names = [job.fine_tuned_model, *(each.fine_tuned_model_checkpoint for each in checkpoints), job.model]
    answers = {name: _ask(client, name) for name in names}
    assert answers[job.fine_tuned_model] == answers[checkpoints[0].fine_tuned_model_checkpoint]
    assert answers[job.model] != answers[job.fine_tuned_model]


def test_streams_come_piece_by_piece(line: Line, told: list[str]) -> None:
    assert told
    client = line.api.client()
    (job,) = client.fine_tuning.jobs.list().data
    pieces = client.chat.completions.create(
        model=job.fine_tuned_model or "",
        messages=[{"role": "user", "content": "Which file in an artifact is written last?"}],
        stream=True,
        temperature=0,
        max_tokens=16,
    )
    found = list(pieces)
    assert len(found) > 3
    assert {piece.model for piece in found} == {job.fine_tuned_model}


def test_the_older_way_of_asking_works_as_well(line: Line, told: list[str]) -> None:
    assert told
    client = line.api.client()
    (job,) = client.fine_tuning.jobs.list().data
    said = client.completions.create(model=job.fine_tuned_model or "", prompt="Hone is", max_tokens=4)
    assert said.choices[0].text and said.model == job.fine_tuned_model


def _ask(client: openai.OpenAI, model: str) -> str:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Which file in an artifact is written last?"}],
        max_tokens=24,
        temperature=0,
    )
    assert answer.model == model
    return answer.choices[0].message.content or ""
