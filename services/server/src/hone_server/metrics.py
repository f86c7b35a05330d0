"""Hone's own metrics, beside vLLM's at `/metrics`. vLLM drops whatever begins with `vllm:`."""

from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from hone_server.gate import Verdict

SwapResult = Literal["swapped", "refused", "crowded", "lost"]

REQUESTS = Counter("hone_requests", "Requests of a known key, by final status", ["key", "route", "status"])
TOKENS = Counter("hone_tokens", "Tokens of prompts and of answers", ["key", "kind"])
REFUSED = Counter("hone_refused_requests", "Requests that the edge refused", ["reason"])
WAITING = Gauge("hone_requests_waiting", "Requests held back while the model is swapped")
INSIDE = Gauge("hone_requests_inside", "Requests for answers that vLLM has now")

_GATE_PASSED = Gauge("hone_gate_passed", "1: the last comparison passed; 0: it failed, or there was none yet")
_GATE_MAX = Gauge("hone_gate_max_abs_delta", "Largest difference of logprobs in it, in nats")
_GATE_MEAN = Gauge("hone_gate_mean_abs_delta", "Mean difference of logprobs in it, in nats")
_MODEL = Gauge("hone_model_info", "What is served now", ["model", "version", "digest"])
_SWAPS = Counter("hone_swaps", "Attempts to serve another version", ["result"])
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_DRAIN = Histogram("hone_drain_seconds", "Until the old version's last answer had ended", buckets=_SECONDS)
_SWAP = Histogram("hone_swap_seconds", "From then until the new version answered", buckets=_SECONDS)
_STORE_SIZE = Gauge("hone_store_size_bytes", "Of the volume that the store is on; NaN: it is gone")
_STORE_FREE = Gauge("hone_store_free_bytes", "Free on it; NaN: it is gone")
for _result in get_args(SwapResult):
    # The first of its kind is an increase only if there was a 0 before it.
    _SWAPS.labels(_result)


def record_verdict(verdict: Verdict) -> None:
    """What the gate found, of whatever version."""
    _GATE_PASSED.set(verdict.passed)
    nan = float("nan")
    _GATE_MAX.set(nan if verdict.max_abs_delta is None else verdict.max_abs_delta)
    _GATE_MEAN.set(nan if verdict.mean_abs_delta is None else verdict.mean_abs_delta)


def record_model(name: str, version: str, digest: str) -> None:
    """What is served from now on, in place of what was."""
    _MODEL.clear()
    _MODEL.labels(name, version, digest).set(1)


def record_swap(result: SwapResult, drain_seconds: float | None, swap_seconds: float | None) -> None:
    """One attempt. A time that is None was not reached."""
    _SWAPS.labels(result).inc()
    if drain_seconds is not None:
        _DRAIN.observe(drain_seconds)
    if swap_seconds is not None:
        _SWAP.observe(swap_seconds)


def record_room(size: int | None, free: int | None) -> None:
    """Bytes of the store's volume. None: it cannot be asked."""
    for gauge, value in ((_STORE_SIZE, size), (_STORE_FREE, free)):
        gauge.set(float("nan") if value is None else value)


def record_tokens(key: str, prompt: int, completion: int) -> None:
    """What one request came to."""
    TOKENS.labels(key, "prompt").inc(prompt)
    TOKENS.labels(key, "completion").inc(completion)
