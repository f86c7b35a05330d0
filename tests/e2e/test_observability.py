"""A real Prometheus asks a real server and a run that trains, and has all that rules and dashboards name."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from chain import Demo, Running, without_settings
from watching import ROOT, RULES, named_metrics

pytestmark = pytest.mark.chain

PATIENCE = 180
"""Seconds for the first step of a run, and for Prometheus to have seen everything."""
_SPEC = """\
name: watched
model: {name: demo:smollm2-135m-instruct}
data: {train: train.jsonl, eval: eval.jsonl}
training: {epochs: 500, batch_size: 2}
"""


@pytest.fixture(scope="module")
def trainer(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the metrics of a run that goes on."""
    folder = tmp_path_factory.mktemp("trainer")
    shutil.copytree(demo.store.root / "bases", folder / "store" / "bases")
    _write(folder / "train.jsonl", {"What is written last?": "The manifest.", "Who fuses?": "The merger."})
    _write(folder / "eval.jsonl", {"Which file comes after all others?": "The manifest."})
    (folder / "run.yaml").write_text(_SPEC)
    command = [sys.executable, "-m", "hone_trainer", "--store", str(folder / "store"), "train", "run.yaml"]
    with _running([*command, "--metrics-port", "0"], folder) as log:
        yield _told(log, "metrics_served").removeprefix("metrics at http://").removesuffix("/metrics")


@pytest.fixture(scope="module")
def asked(
    server: Running, trainer: str, prometheus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Prometheus, as compose.yaml configures it, but that it asks these two, no api, and every second."""
    server.wait_until_ready()
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copyfile(RULES, folder / "rules.yaml")
    configuration = yaml.safe_load((ROOT / "observability" / "prometheus.yaml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    targets = {"hone-server": server.url.removeprefix("http://"), "hone-trainer": trainer}
    named = [job["job_name"] for job in configuration["scrape_configs"]]
    # This server has no key.
    configuration["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [targets[job]]}]} for job in named if job in targets
    ]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = _free_address()
    options = ["--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    with (
        _running([str(prometheus / "prometheus"), *options], folder),
        httpx.Client(base_url=f"http://{address}/api/v1") as client,
    ):
        yield client


def test_every_metric_that_is_named_has_samples(asked: httpx.Client, server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "Who serves?"}]
    client.chat.completions.create(model="hone-faq", messages=messages, max_tokens=8)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="hone-faq", messages=messages, n=1000)
    # The api's: tests/observability/test_api_metrics.py.
    missing = named = {name for name in named_metrics() if not name.startswith("hone_api_")}
    until = time.monotonic() + PATIENCE
    while missing and time.monotonic() < until:
        time.sleep(1)
        missing = named - set(_get(asked, "/label/__name__/values"))
    assert missing == set()


def test_both_are_up_and_nothing_is_alarming(asked: httpx.Client) -> None:
    up = {each["metric"]["job"]: each["value"][1] for each in _query(asked, "up")}
    assert up == {"hone-server": "1", "hone-trainer": "1"}
    rules = [rule for group in _get(asked, "/rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    # The disk of whoever runs the tests may be full.
    assert {each["metric"]["alertname"] for each in _query(asked, "ALERTS")} <= {"HoneStoreNearlyFull"}


def test_the_server_tells_the_gate_and_the_run_its_progress(asked: httpx.Client) -> None:
    (gate,) = _query(asked, "hone_gate_passed")
    assert gate["value"][1] == "1"
    (progress,) = _query(asked, "hone_training_step / hone_training_steps")
    assert 0 < float(progress["value"][1]) < 1
    (free,) = _query(asked, "hone_store_free_bytes")
    assert float(free["value"][1]) > 0


def _write(file: Path, facts: dict[str, str]) -> None:
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]}
        for asked, told in facts.items()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _get(client: httpx.Client, path: str, **parameters: str) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def _query(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _get(client, "/query", query=expression)["result"]
    return found


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[Path]:
    """A process and the file of what it tells; ended at the end."""
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=without_settings())
    try:
        yield log
    finally:
        process.terminate()
        process.wait(timeout=120)


def _told(log: Path, event: str) -> str:
    """The message of the first such event, once it is there."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (told := json.loads(line))["event"] == event:
                message: str = told["message"]
                return message
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"
