"""report.json: what became of the data, and what a run will make of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hone_contract.artifact import Artifact
from hone_contract.events import Reporter
from hone_trainer.data.choosing import Choice
from hone_trainer.data.sources import Source
from hone_trainer.data.tally import Counts, Tally

_FEW, _ADVISED = 10, 500
_BARS = 20
_NAMED = 10


@dataclass
class Lengths:
    """Tokens of the records to learn from, each as often as it is learned in an epoch."""

    base: str
    tokens: list[int] = field(default_factory=list)
    learned: int = 0
    longest_conversation: int = 0
    """Tokens; a preference pair has two conversations."""

    def to_json(self) -> dict[str, Any]:
        ordered = sorted(self.tokens) or [0]
        pairs = 0 < self.longest_conversation < ordered[-1]
        return {
            "base": self.base,
            "per_epoch": sum(self.tokens),
            "learned_per_epoch": self.learned,
            "shortest": ordered[0],
            "median": ordered[len(ordered) // 2],
            "p95": ordered[int(len(ordered) * 0.95)],
            "longest": ordered[-1],
            # Other records are conversations, and their reports stay as they were, as does their digest.
            **({"longest_conversation": self.longest_conversation} if pairs else {}),
            "histogram": _histogram(ordered),
        }


def make_report(
    sources: Sequence[Source], tally: Tally, choice: Choice, lengths: Lengths | None
) -> dict[str, Any]:
    """The report as JSON; `lengths` is None when there was no base to count with."""
    return {
        "read": tally.read,
        "accepted": sum(counts.accepted for counts in tally.sources),
        "rejected": tally.rejected,
        "removed": sum(counts.removed.total() for counts in tally.sources),
        "repeated": sum(counts.repeated for counts in tally.sources),
        "train_records": len(choice.train),
        "eval_records": len(choice.eval),
        "sources": [_source(source, counts) for source, counts in zip(sources, tally.sources, strict=True)],
        "tokens": lengths.to_json() if lengths is not None else None,
        "notes": list(_notes(sources, tally, choice, lengths)),
    }


def tell_report(reporter: Reporter, dataset: Artifact) -> None:
    """The report in a few lines, for whoever waits for it."""
    report = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    counts = {key: report[key] for key in ("read", "accepted", "rejected", "removed")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    reporter.tell(
        "dataset_ready",
        f"dataset {dataset.manifest.id}: {told}; {report['train_records']} to learn from, "
        f"{report['eval_records']} set aside; see {dataset.path / 'report.html'}",
        id=dataset.manifest.id,
        **counts,
    )
    few = report["train_records"] < _FEW
    for number, note in enumerate(report["notes"]):
        reporter.tell("data_note", note, level="warning" if few and number == 0 else "info")
    if report["rejected"]:
        reporter.tell(
            "rejected_rows",
            f"{report['rejected']} bad rows are in {dataset.path / 'rejected.jsonl'}, each with its line",
            level="warning",
            rejected=report["rejected"],
        )


def _source(source: Source, counts: Counts) -> dict[str, Any]:
    return {
        "name": source.name,
        "role": source.role,
        "files": [file.name for file in source.files],
        "origin": source.origin.model_dump(mode="json"),
        "read": counts.read,
        "accepted": counts.accepted,
        "forms": dict(counts.forms),
        "rejected": dict(counts.rejected),
        "removed": dict(counts.removed),
        "repeated": counts.repeated,
        "unused_fields": dict(counts.unused),
    }


def _notes(sources: Sequence[Source], tally: Tally, choice: Choice, lengths: Lengths | None) -> Iterator[str]:
    """What whoever reads the report should know, in sentences."""
    count = len(choice.train)
    if count < _FEW:
        yield f"Records to learn from: {count}; fewer than {_FEW} teach little, and OpenAI refuses them."
    elif count < _ADVISED:
        yield f"Records to learn from: {count}; {_ADVISED} or more are advised for most tasks."
    for source, counts in zip(sources, tally.sources, strict=True):
        for name, times in counts.unused.most_common(_NAMED):
            yield f"{source.name}: the field {name!r} of {times} rows has no meaning here and was not used."
        if (more := len(counts.unused) - _NAMED) > 0:
            yield f"{source.name}: {more} other fields have no meaning here either; report.json names them."
    if not choice.eval:
        yield "No record is set aside, so nothing can be said of the loss on unseen records."
    if lengths is None:
        yield "Tokens were not counted: the base is on the Hub; fetch it with hone-trainer import-base."


def _histogram(ordered: list[int]) -> list[dict[str, int]]:
    """Bars of one width from 0 on, the last with the longest record; `to` is inclusive."""
    width = -(-max(1, ordered[-1]) // _BARS)
    bars = [0] * _BARS
    for length in ordered:
        bars[max(0, length - 1) // width] += 1
    return [
        {"from": index * width + 1, "to": (index + 1) * width, "records": count}
        for index, count in enumerate(bars)
    ]
