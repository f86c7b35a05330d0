"""What the adapter of a QLoRA run is added to: its base as it is, or what 4 bits leave of it.

The training saw the base through 4 bits, and a server serves it whole. Which of the two models is nearer to
what was trained is a matter of the model, so both are asked, before either is written.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hone_contract.events import Reporter
from hone_contract.probes import Probes, mean_delta, read_probes
from hone_merger.fusing.layout import Layout, plan_layout
from hone_merger.plan import Plan
from hone_merger.settings import write_config
from hone_merger.streaming import score_all, streamed


@dataclass(frozen=True)
class Choice:
    """What the model is going to be made from."""

    layout: Layout
    dequantized: bool
    """Whether the base goes through 4 bits."""
    told: Mapping[str, object]
    """For the report: what was chosen, and what it was chosen by."""


def choose_base(plan: Plan, reporter: Reporter) -> Choice:
    """As the plan says; with `auto` what is nearer on the probes, by the mean |difference| of logprobs.

    Raises BadInput when adapter and base do not fit together.
    """
    if plan.base_weights != "auto":
        dequantized = plan.base_weights == "dequantized"
        return Choice(_layout(plan, dequantized), dequantized, {"base_weights": plan.base_weights})
    reporter.tell("measuring", "which is nearer to what was trained: on the base as it is, or through 4 bits")
    layouts = {name: _layout(plan, name == "dequantized") for name in ("original", "dequantized")}
    probes = read_probes(plan.tuned.path)
    distances = {name: _distance(plan.base.path, layout, probes) for name, layout in layouts.items()}
    nearer = min(distances, key=lambda name: math.inf if math.isnan(distances[name]) else distances[name])
    told = {"base_weights": nearer, "mean_delta_from_trained": distances}
    numbers = ", ".join(f"{distance:.2g} {name}" for name, distance in distances.items())
    reporter.tell("base_chosen", f"{nearer}: mean difference of logprobs {numbers}", distances={**distances})
    return Choice(layouts[nearer], nearer == "dequantized", told)


def _layout(plan: Plan, dequantized: bool) -> Layout:
    dtype = None if plan.dtype is None else getattr(torch, plan.dtype)
    return plan_layout(plan.base.path, plan.tuned.path, dtype, dequantized=dequantized)


def score_planned(base: Path, layout: Layout, probes: Probes) -> list[list[float]]:
    """The logprobs of the probes' answers by a model that is only planned; in float32."""
    with tempfile.TemporaryDirectory() as name:
        write_config(base, Path(name), dtype=layout.dtype, vocabulary=layout.vocabulary, untied=layout.untied)
        return score_all(streamed(Path(name), layout.outputs), probes.texts)


def _distance(base: Path, layout: Layout, probes: Probes) -> float:
    trained = [probe.trained or [] for probe in probes.probes]
    return mean_delta(score_planned(base, layout, probes), trained)
