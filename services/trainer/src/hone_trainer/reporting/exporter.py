"""`/metrics` of a run for Prometheus, from before its first step until it ends."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter, Rewards, StepMetrics
from hone_trainer.launch import rank

_LOOPBACK = "127.0.0.1"
_HELP = {
    "step": "Optimiser steps done.",
    "steps": "Optimiser steps planned.",
    "epoch": "Passes over the training records done.",
    "loss": "Mean loss of the last step: cross-entropy, nats a token, or of preference pairs, nats a pair.",
    "eval_loss": "The same on the evaluation records.",
    "reward_chosen": "Mean reward of the better answers of the last step's pairs.",
    "reward_rejected": "Mean reward of the worse answers of the last step's pairs.",
    "reward_margin": "Mean difference of the rewards of the last step's pairs.",
    "reward_accuracy": "Share of the last step's pairs whose better answer has the higher reward.",
    "eval_reward_chosen": "Mean reward of the better answers of the evaluation pairs.",
    "eval_reward_rejected": "Mean reward of the worse answers of the evaluation pairs.",
    "eval_reward_margin": "Mean difference of the rewards of the evaluation pairs.",
    "eval_reward_accuracy": "Share of the evaluation pairs whose better answer has the higher reward.",
    "learning_rate": "Learning rate of the last step.",
    "gradient_norm": "Norm of the gradients of the last step, before they were clipped.",
    "tokens": "Tokens trained on, prompts included, padding not.",
    "tokens_per_second": "Tokens a second of training, evaluation and saving left out.",
    "memory_bytes": "Most memory that the process has held: resident on a CPU, allocated on a GPU.",
    "checkpoint_age_seconds": "Time since the last checkpoint was saved, or since training began.",
}


class Exporter(Collector):
    """What `/metrics` says of one run. A value that is not known yet is left out, not shown as 0."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        # A scrape comes in another thread: the whole is replaced, never changed.
        self._values: dict[str, float] = {}
        self._saved_at: float | None = None

    def show(self, **values: float | None) -> None:
        """Set some values, named as in the metrics; None leaves one as it was."""
        self._values = self._values | {name: value for name, value in values.items() if value is not None}

    def show_metrics(self, metrics: StepMetrics) -> None:
        """What a line of metrics.jsonl says."""
        memory = metrics.memory_mb
        self.show(
            step=metrics.step,
            epoch=metrics.epoch,
            loss=metrics.loss,
            eval_loss=metrics.eval_loss,
            learning_rate=metrics.learning_rate,
            gradient_norm=metrics.grad_norm,
            tokens=metrics.tokens,
            tokens_per_second=metrics.tokens_per_second,
            memory_bytes=None if memory is None else memory * 1e6,
            **_named("reward", metrics.rewards),
            **_named("eval_reward", metrics.eval_rewards),
        )

    def began(self) -> None:
        """Training begins: without a checkpoint to go on from, its age counts from here."""
        if self._saved_at is None:
            self.saved()

    def saved(self, at: float | None = None) -> None:
        """A checkpoint was saved `at` that time (seconds since 1970), or now."""
        self._saved_at = time.time() if at is None else at

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus-client at each scrape."""
        values = self._values
        if self._saved_at is not None:
            values = values | {"checkpoint_age_seconds": max(0.0, time.time() - self._saved_at)}
        for name, meaning in _HELP.items():
            if name in values:
                family = CounterMetricFamily if name == "tokens" else GaugeMetricFamily
                metric = family(f"hone_training_{name}", meaning, labels=["run_id"])
                metric.add_metric([self.run_id], values[name])
                yield metric


def _named(name: str, rewards: Rewards | None) -> dict[str, float]:
    return {} if rewards is None else {f"{name}_{each}": value for each, value in rewards}


def metrics_address(port: int | None, host: str | None) -> tuple[str, int] | None:
    """Where to serve, from the options or else HONE_METRICS_PORT and HONE_METRICS_HOST; None: nowhere.

    Raises BadConfiguration when the variable holds no port.
    """
    if port is None and (text := os.environ.get("HONE_METRICS_PORT")):
        if not text.isdecimal() or int(text) > 65535:
            raise BadConfiguration(f"HONE_METRICS_PORT: {text!r} is no port; give a number from 0 to 65535")
        port = int(text)
    if port is None:
        return None
    return host or os.environ.get("HONE_METRICS_HOST") or _LOOPBACK, port


@contextmanager
def exporting(run_id: str, address: tuple[str, int] | None) -> Iterator[Exporter | None]:
    """Serve a run's metrics at `address` while the body runs, however it ends; port 0 takes a free one.

    None without an address, and in all processes of a run but the first.
    Raises BadConfiguration when the address cannot be had.
    """
    if address is None or rank() != 0:
        yield None
        return
    # A registry of its own: whoever runs the process watches its processor and memory already.
    registry = CollectorRegistry()
    exporter = Exporter(run_id)
    registry.register(exporter)
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise BadConfiguration(
            f"metrics cannot be served at {host} port {port}: {error.strerror}; "
            "choose another --metrics-port or --metrics-host"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    Reporter("trainer").tell("metrics_served", f"metrics at http://{shown}:{server.server_port}/metrics")
    try:
        yield exporter
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
