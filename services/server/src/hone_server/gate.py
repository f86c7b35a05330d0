"""The parity gate: is the model that answers the one that was trained? Numbers, not text.

The probes hold what the merged model and its base made of recorded continuations (see
hone_contract.probes). The served model must render the same token ids, come to the merged
model's logprobs within a tolerance that depends on its number format, and be farther from the
base than from the merged model.
"""

from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, sha256_of
from hone_contract.probes import Logprobs, Probe, Probes


@dataclass(frozen=True)
class Tolerance:
    """Largest differences of logprobs (nats) that rounding explains."""

    max_delta: float
    mean_delta: float


# Served by vLLM against Transformers in float32, on a 135 M model: float32 at most 4e-5, mean 1e-5;
# bfloat16 at most 0.25, mean 0.06; another model 11 to 16, mean 1.4 to 2.1.
TOLERANCES = {
    "float32": Tolerance(max_delta=0.01, mean_delta=0.001),
    "float16": Tolerance(max_delta=0.2, mean_delta=0.05),
    "bfloat16": Tolerance(max_delta=1.0, mean_delta=0.15),
}
# Below this, merged model and base differ by no more than two computations of the same model do.
_SAME_MODEL = 1e-4
_IS_BASE = "the served model equals its base"


@dataclass(frozen=True)
class Replay:
    """What the served model made of one probe."""

    prompt_token_ids: list[int]
    logprobs: Logprobs


@dataclass(frozen=True)
class Verdict:
    """The gate's answer and the numbers behind it; deltas are |differences| of logprobs in nats."""

    passed: bool
    reason: str
    dtype: str
    probes: int
    max_abs_delta: float | None = None
    """Served against merged."""
    mean_abs_delta: float | None = None
    mean_abs_delta_from_base: float | None = None
    tolerance: Tolerance | None = None

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)

    def refused(self, reason: str) -> "Verdict":
        """The same numbers, and no pass."""
        return replace(self, passed=False, reason=reason)


def other_files(probes: Probes, model: Path) -> str | None:
    """Why the model's tokenizer or chat template is not the one that the probes were made with."""
    recorded = {TOKENIZER: probes.tokenizer_sha256, CHAT_TEMPLATE: probes.chat_template_sha256}
    changed = [name for name, digest in recorded.items() if sha256_of(model, name) != digest]
    return f"its {changed[0]} is not the one that it was trained with" if changed else None


def excerpt(probes: list[Probe], count: int = 3, tokens: int = 8) -> list[Probe]:
    """The beginnings of the most telling probes, where every token costs a request."""

    def begin(probe: Probe) -> Probe:
        names = ("continuation_token_ids", "base", "adapter", "merged", "trained")
        lists = {name: getattr(probe, name) for name in names}
        return probe.model_copy(update={name: each and each[:tokens] for name, each in lists.items()})

    return [begin(probe) for probe in telling(probes, count)]


def telling(probes: list[Probe], count: int) -> list[Probe]:
    """The probes on which the merged model and its base differ most."""

    def effect(probe: Probe) -> float:
        return _mean(_deltas(probe.merged or probe.adapter, probe.base))

    return sorted(probes, key=effect)[-count:]


def unchanged(before: list[Logprobs], after: list[Logprobs]) -> bool:
    """Whether two replays of the same probes, each alone in its batch, come from the same weights."""
    pairs = zip(before, after, strict=True)
    return all(max(_deltas(some, others)) < _SAME_MODEL for some, others in pairs)


def judge(
    probes: list[Probe],
    replays: list[Replay],
    dtype: str,
    model: Literal["merged", "adapter", "base"] = "merged",
) -> Verdict:
    """Compare what was served with what was recorded of a model, probe by probe."""
    recorded: list[Logprobs | None] = [getattr(probe, model) for probe in probes]
    if not probes or any(logprobs is None for logprobs in recorded):
        return Verdict(False, f"there are no probes of the {model} model; merge again", dtype, len(probes))
    if other := _other_tokens(probes, replays):
        return Verdict(False, other, dtype, len(probes))
    served = [value for replay in replays for value in replay.logprobs]
    expected = [value for logprobs in recorded for value in logprobs or []]
    base = [value for probe in probes for value in probe.base]
    tolerance = TOLERANCES[dtype]
    deltas, mean_from_base = _deltas(served, expected), _mean(_deltas(served, base))
    if model != "base" and _mean(_deltas(expected, base)) < _SAME_MODEL:
        reason: str | None = _IS_BASE
    else:
        reason = _refusal(model, max(deltas), _mean(deltas), mean_from_base, tolerance)
    return Verdict(
        passed=reason is None,
        reason=reason or f"the served model is the {model} model",
        dtype=dtype,
        probes=len(probes),
        max_abs_delta=max(deltas),
        mean_abs_delta=_mean(deltas),
        mean_abs_delta_from_base=mean_from_base,
        tolerance=tolerance,
    )


def _refusal(
    model: str, max_delta: float, mean: float, mean_from_base: float, tolerance: Tolerance
) -> str | None:
    # First, since a model that equals its base is also far from the tuned one.
    if model != "base" and mean_from_base <= mean:
        return _IS_BASE
    # Turned round, so that a value that is no number is refused.
    if not (max_delta <= tolerance.max_delta and mean <= tolerance.mean_delta):
        return (
            f"the served model is not the {model} model: logprobs differ by up to {max_delta:.4f}, "
            f"{mean:.4f} on average (allowed: {tolerance.max_delta}, {tolerance.mean_delta})"
        )
    return None


def _other_tokens(probes: list[Probe], replays: list[Replay]) -> str | None:
    for number, (probe, replay) in enumerate(zip(probes, replays, strict=True), 1):
        pairs = zip_longest(probe.prompt_token_ids, replay.prompt_token_ids)
        place = next((index for index, (a, b) in enumerate(pairs) if a != b), None)
        if place is not None:
            return (
                f"the server renders probe {number} to other tokens than the trainer did, "
                f"from token {place} on: its tokenizer or chat template differs"
            )
    return None


def _deltas(left: Logprobs, right: Logprobs) -> list[float]:
    return [abs(a - b) for a, b in zip(left, right, strict=True)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
