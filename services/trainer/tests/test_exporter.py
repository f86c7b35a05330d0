"""`/metrics`: what Prometheus gets to see while a run trains, and where."""

import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from trainer_cli import refusal, run_trainer
from trainer_watch import LENGTH, SPEC, STEPS, STEPS_AN_EPOCH, begin, go_on, make_loop
from transformers import PreTrainedTokenizerFast, TrainerCallback

from hone_contract.errors import BadConfiguration
from hone_contract.events import StepMetrics
from hone_trainer.reporting.diary import begin_diary
from hone_trainer.reporting.exporter import Exporter, exporting, metrics_address
from hone_trainer.reporting.run_files import read_metrics

pytestmark = pytest.mark.chain

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        return int(taken.getsockname()[1])


def scrape(port: int) -> dict[str, float]:
    """Values by name; each must be of the one run."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode("utf-8")))
    samples = [sample for family in families for sample in family.samples]
    assert all(sample.labels == {"run_id": "sky-1"} for sample in samples)
    return {sample.name.removeprefix("hone_training_"): sample.value for sample in samples}


class Scraping(TrainerCallback):  # type: ignore[misc]
    """Looks at the metrics in each step, as Prometheus would."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen: list[dict[str, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.seen.append(scrape(self.port))


def test_a_run_shows_how_far_it_is(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    port = free_port()
    with exporting("sky-1", (LOOPBACK, port)) as exporter:
        loop, diary = make_loop(begin(tmp_path), tokenizer, exporter)
        loop.add_callback(scraping := Scraping(port))
        loop.train()
        end = scrape(port)
    first, second, *_ = scraping.seen
    # What is not known yet is not 0; what would be lost is known from the beginning.
    assert 0 <= first.pop("checkpoint_age_seconds") < 30
    assert first == {"step": 0, "steps": STEPS, "epoch": 0}
    assert second["step"] == 1
    assert "eval_loss" not in second
    assert (end["step"], end["steps"], end["epoch"]) == (STEPS, STEPS, 2)
    assert end["tokens_total"] == STEPS * 2 * LENGTH
    assert (end["loss"], end["eval_loss"]) == (diary.loss, diary.eval_loss)
    assert end["learning_rate"] == pytest.approx(1e-2 / STEPS)
    assert end["tokens_per_second"] == diary.tokens_per_second > 0
    assert end["gradient_norm"] > 0 and end["memory_bytes"] > 1e8
    assert 0 <= end["checkpoint_age_seconds"] < 30


def test_a_run_that_goes_on_shows_what_it_knew(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder, port = begin(tmp_path), free_port()
    make_loop(folder, tokenizer)[0].train()
    losses = [line.loss for line in read_metrics(folder / "metrics.jsonl") if line.step == STEPS_AN_EPOCH]
    (folder / "checkpoints" / f"step-{STEPS_AN_EPOCH}").mkdir(parents=True)
    begin_diary(folder, SPEC, STEPS_AN_EPOCH)
    with exporting("sky-1", (LOOPBACK, port)) as exporter:
        loop, _ = make_loop(folder, tokenizer, exporter)
        loop.add_callback(scraping := Scraping(port))
        go_on(loop, STEPS_AN_EPOCH * 2 * LENGTH)
    first = scraping.seen[0]
    assert (first["step"], first["steps"]) == (STEPS_AN_EPOCH, STEPS)
    assert (first["loss"], first["eval_loss"]) == (losses[0], 4 - STEPS_AN_EPOCH / 10)
    assert first["tokens_total"] == STEPS_AN_EPOCH * 2 * LENGTH
    assert 0 <= first["checkpoint_age_seconds"] < 30


def test_the_age_of_a_checkpoint_grows_between_scrapes() -> None:
    exporter = Exporter("sky-1")
    exporter.saved(at=1.0)
    ages = [next(iter(exporter.collect())).samples[0].value for _ in range(2)]
    assert 1e9 < ages[0] < ages[1]


def test_an_evaluation_leaves_the_loss_as_it_was() -> None:
    exporter = Exporter("sky-1")
    exporter.show_metrics(StepMetrics(step=1, epoch=0.5, loss=2.0, memory_mb=3.0))
    exporter.show_metrics(StepMetrics(step=1, epoch=0.5, eval_loss=float("nan")))
    shown = {metric.name: metric.samples[0].value for metric in exporter.collect()}
    assert (shown["hone_training_loss"], shown["hone_training_memory_bytes"]) == (2.0, 3e6)
    assert shown["hone_training_eval_loss"] != shown["hone_training_eval_loss"]


def test_it_ends_with_the_run_when_that_fails_too() -> None:
    port = free_port()
    with pytest.raises(ZeroDivisionError), exporting("sky-1", (LOOPBACK, port)):
        assert scrape(port) == {}
        raise ZeroDivisionError
    with pytest.raises(urllib.error.URLError):
        scrape(port)
    with exporting("sky-1", (LOOPBACK, port)):
        pass


def test_it_is_off_unless_a_port_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HONE_METRICS_PORT", raising=False)
    assert metrics_address(None, "0.0.0.0") is None
    with exporting("sky-1", None) as exporter:
        assert exporter is None


def test_only_the_first_process_opens_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    port = free_port()
    with exporting("sky-1", (LOOPBACK, port)) as exporter:
        assert exporter is None
        with pytest.raises(urllib.error.URLError):
            scrape(port)


def test_options_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_METRICS_PORT", "9100")
    assert metrics_address(None, None) == (LOOPBACK, 9100)
    monkeypatch.setenv("HONE_METRICS_HOST", "0.0.0.0")
    assert metrics_address(None, None) == ("0.0.0.0", 9100)
    assert metrics_address(9101, "::1") == ("::1", 9101)
    monkeypatch.setenv("HONE_METRICS_PORT", "")
    assert metrics_address(None, None) is None


@pytest.mark.parametrize("text", ["http", "65536", "-1", "9100.0"])
def test_a_variable_that_holds_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HONE_METRICS_PORT", text)
    with pytest.raises(BadConfiguration, match=f"HONE_METRICS_PORT: '{text}' is no port"):
        metrics_address(None, None)


def test_the_command_takes_a_port(tmp_path: Path) -> None:
    wrong = run_trainer(tmp_path, "train", "run.yaml", "--metrics-port", "65536")
    assert (wrong.code, wrong.out) == (78, "") and "'65536' is no port" in wrong.err
    told = refusal(run_trainer(tmp_path, "train", "run.yaml", HONE_METRICS_PORT="http"), 78)
    assert "HONE_METRICS_PORT: 'http' is no port" in told


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            BadConfiguration, match=f"at 127.0.0.1 port {port}: Address already in use; choose"
        ):
            with exporting("sky-1", (LOOPBACK, port)):
                pass


def test_a_host_that_is_not_this_machine_is_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"metrics cannot be served at 192\.0\.2\.1 port 0: "):
        with exporting("sky-1", ("192.0.2.1", 0)):
            pass


def test_where_it_is_served_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with exporting("sky-1", (LOOPBACK, port)):
        assert f"metrics at http://127.0.0.1:{port}/metrics" in capsys.readouterr().err
