"""The parity gate: is the model that answers the one that was trained? Numbers, not text.

The probes hold what the merged model and its base made of recorded continuations (see
hone_contract.probes). The served model must render the same token ids, come to the merged
model's logprobs within a tolerance that depends on its number format, and be farther from the
base than from the merged model.
"""

from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

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

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def other_files(probes: Probes, model: Path) -> str | None:
    """Why the model's tokenizer or chat template is not the one that the probes were made with."""
    recorded = {TOKENIZER: probes.tokenizer_sha256, CHAT_TEMPLATE: probes.chat_template_sha256}
    changed = [name for name, digest in recorded.items() if sha256_of(model, name) != digest]
    return f"its {changed[0]} is not the one that it was trained with" if changed else None


def judge(probes: list[Probe], replays: list[Replay], dtype: str) -> Verdict:
    """Compare what was served with what was recorded, probe by probe."""
    if not probes or any(probe.merged is None for probe in probes):
        return Verdict(False, "there are no probes of the merged model; merge again", dtype, len(probes))
    if other := _other_tokens(probes, replays):
        return Verdict(False, other, dtype, len(probes))
    served = [value for replay in replays for value in replay.logprobs]
    merged = [value for probe in probes for value in probe.merged or []]
    base = [value for probe in probes for value in probe.base]
    tolerance = TOLERANCES[dtype]
    deltas, deltas_from_base = _deltas(served, merged), _deltas(served, base)
    mean, mean_from_base = _mean(deltas), _mean(deltas_from_base)
    if _mean(_deltas(merged, base)) < _SAME_MODEL:
        reason: str | None = "the served model equals its base"
    else:
        reason = _refusal(max(deltas), mean, mean_from_base, tolerance)
    return Verdict(
        passed=reason is None,
        reason=reason or "the served model is the merged model",
        dtype=dtype,
        probes=len(probes),
        max_abs_delta=max(deltas),
        mean_abs_delta=mean,
        mean_abs_delta_from_base=mean_from_base,
        tolerance=tolerance,
    )


def _refusal(max_delta: float, mean: float, mean_from_base: float, tolerance: Tolerance) -> str | None:
    # First, since a model that equals its base is also far from the merged one.
    if mean_from_base <= mean:
        return "the served model equals its base"
    # Turned round, so that a value that is no number is refused.
    if not (max_delta <= tolerance.max_delta and mean <= tolerance.mean_delta):
        return (
            f"the served model is not the merged model: logprobs differ by up to {max_delta:.4f}, "
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
