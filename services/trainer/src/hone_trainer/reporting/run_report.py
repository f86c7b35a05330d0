"""report.html of a run: what was trained, how it went, and what came of it, in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hone_contract.artifact import write_atomically
from hone_contract.events import StepMetrics
from hone_contract.manifest import Source
from hone_trainer.reporting.charts import Curve, line_chart
from hone_trainer.reporting.run_files import read_metrics
from hone_trainer.reporting.run_page import run_page


class Sample(NamedTuple):
    """A question, and what was said to it."""

    question: str
    before: str
    """The base's answer."""
    after: str
    """The tuned model's answer."""
    reference: str | None
    """The answer in the data; None when there is none."""


@dataclass(frozen=True)
class RunReport:
    """What the page is made from, beside the run's metrics.jsonl."""

    run_id: str
    metrics: Path
    """The run's metrics.jsonl, which has the curves."""
    spec: str
    """The run spec, as YAML."""
    dataset: Mapping[str, Any]
    """The dataset's report.json."""
    samples: Sequence[Sample]
    seconds: Mapping[str, float]
    """What each stage took, in the order in which they are shown."""
    tokens_per_second: float
    memory_mb: float | None
    """Most memory that the process held, in MB."""
    tools: Mapping[str, str]
    """Versions of the libraries."""
    lineage: Mapping[str, Source]
    """What the run was made from, by role."""
    notes: Sequence[str] = ()
    """What whoever reads the report should know, in sentences."""


def write_report(path: Path, contents: RunReport) -> None:
    """Write the page; nothing of the data is taken as HTML, and nothing is fetched when it is opened."""
    metrics = read_metrics(contents.metrics)
    # A step that was done again after a restart is told twice; the last telling counts.
    steps = {line.step: line for line in metrics if line.loss is not None}
    evaluations = {line.step: line for line in metrics if line.eval_loss is not None}
    unit = "nats a pair" if any(line.rewards for line in steps.values()) else "nats a token"
    page = run_page(
        contents,
        losses=_loss_chart(list(steps.values()), list(evaluations.values()), unit),
        unit=unit,
        rates=_rate_chart(list(steps.values())),
        steps=list(steps.values()),
        evaluations=list(evaluations.values()),
    )
    # Half a surrogate pair, which JSON can spell, is no character and has no bytes.
    write_atomically(path, page.encode("utf-8", errors="replace").decode("utf-8"))


def _loss_chart(steps: Sequence[StepMetrics], evaluations: Sequence[StepMetrics], unit: str) -> str:
    curves = [Curve("training", [(line.step, line.loss) for line in steps if line.loss is not None])]
    held_out = [(line.step, line.eval_loss) for line in evaluations if line.eval_loss is not None]
    if held_out:
        curves.append(Curve("evaluation", held_out, is_marked=True))
    return line_chart("Loss over the steps", unit, curves)


def _rate_chart(steps: Sequence[StepMetrics]) -> str:
    rates = [(line.step, line.learning_rate) for line in steps if line.learning_rate is not None]
    return line_chart("Learning rate over the steps", "learning rate", [Curve("learning rate", rates)])
