"""`hone-trainer evaluate`: how good a base is, what a run made of it, and what was merged from that."""

import math
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_contract.progress import Progress
from hone_contract.run_spec import RunSpec
from hone_trainer.answering.answers import Asked, answer_all, last_question
from hone_trainer.answering.candidates import ask_each, tokenizer_of
from hone_trainer.answering.evaluation_data import EvaluationData
from hone_trainer.answering.lookup import Found
from hone_trainer.answering.metrics import Likeness, likeness
from hone_trainer.answering.quality import SHOWN, Numbers, of_answers, of_pairs
from hone_trainer.answering.sampling import Sampling
from hone_trainer.answering.scoring import Scored, score
from hone_trainer.chat.conversation import IGNORED, Sequence, to_sequences
from hone_trainer.models import pick_dtype, quiet


@dataclass(frozen=True)
class Quality:
    """What one model came to."""

    numbers: Numbers
    """What it makes of the answers in the data."""
    likeness: Likeness | None
    """Of its own greedy answers; None when it was not asked for any."""


@dataclass(frozen=True)
class Evaluation:
    """Every model's quality on the same records."""

    sequences: list[Sequence]
    asked: list[Asked]
    max_tokens: int
    """Tokens that an answer could have."""
    qualities: dict[str, Quality]
    """By `base`, `tuned`, `merged`."""

    @property
    def learned_tokens(self) -> int:
        # Nothing comes before a record's first token, so nothing can predict it.
        return sum(label != IGNORED for sequence in self.sequences for label in sequence.labels[1:])


def evaluate(
    found: Found,
    spec: RunSpec,
    data: EvaluationData,
    reporter: Reporter,
    *,
    merged: Found | None,
    generation: bool,
    max_tokens: int | None = None,
) -> Evaluation:
    """Score every record, and let each model answer its last question greedily, if there is to be generation.

    Of preference pairs both answers are scored, and held against what the base makes of them. An answer to a
    question may have `max_tokens`; None is twice the longest that is expected. Raises BadInput for a record
    longer than in training, and for a loss that is no number.
    """
    quiet()
    tokenizer = tokenizer_of(found.artifact, found.base)
    sequences = [
        each for record in data.records for each in to_sequences(tokenizer, record, spec.training.max_length)
    ]
    preferred = [record.conversations[0] for record in data.records]
    questions = [last_question(tokenizer, record) for record in preferred] if generation else []
    asked = [question for question in questions if question is not None]
    limit = max_tokens or _enough(tokenizer, asked, spec.training.max_length)

    pairs = data.records[0].is_preference
    scores: dict[str, list[Scored]] = {}

    def judge(title: str, model: Any) -> Quality:
        scored = scores[title] = _score(title, model, sequences, reporter)
        # The base is asked first.
        numbers = of_pairs(scored, scores["base"], spec.dpo.beta) if pairs else of_answers(scored)
        _check(title, numbers)
        alike = _alike(title, model, tokenizer, asked, Sampling(max_tokens=limit), reporter)
        loss = numbers["eval_loss"]
        reporter.tell("evaluated", f"{title}: evaluation loss {loss:.3f}", model=title, eval_loss=loss)
        return Quality(numbers, alike)

    dtype = pick_dtype(spec.training)
    qualities = ask_each(found, dtype, judge, compare=True, merged=merged)
    return Evaluation(sequences, asked, limit, qualities)


def _score(title: str, model: Any, sequences: list[Sequence], reporter: Reporter) -> list[Scored]:
    with Progress(f"{title}: scoring", "conversations", len(sequences), reporter) as progress:
        return score(model, sequences, done=progress.advance)


def _check(title: str, numbers: Numbers) -> None:
    """Raises BadInput for a loss that is no number."""
    if not math.isfinite(loss := numbers["eval_loss"]):
        raise BadInput(f"{title}: the evaluation loss is {loss}; its weights, or training.dtype, are no good")


def _alike(
    title: str,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    asked: list[Asked],
    sampling: Sampling,
    reporter: Reporter,
) -> Likeness | None:
    if not asked:
        return None
    with Progress(f"{title}: answering", "records", len(asked), reporter) as progress:
        said = answer_all(model, tokenizer, [each.prompt for each in asked], sampling, progress.advance)
    return likeness([each.strip() for each in said], [each.expected for each in asked])


def _enough(tokenizer: PreTrainedTokenizerBase, asked: list[Asked], most: int) -> int:
    longest = max((len(tokenizer(each.expected)["input_ids"]) for each in asked), default=1)
    return min(2 * longest, most)


def as_json(
    evaluation: Evaluation, found: Found, spec: RunSpec, data: EvaluationData, merged: Found | None
) -> dict[str, JsonValue]:
    """Everything that a number depends on, beside the numbers."""
    made = {"base": found.base, "tuned": found.artifact}
    if merged is not None:
        made["merged"] = merged.artifact
    return {
        "run_id": found.run_id,
        "dataset": {
            "id": data.dataset.manifest.id,
            "digest": data.dataset.manifest.digest,
            "part": data.part,
        },
        "records": len(data.records),
        "tokens": sum(len(sequence.input_ids) for sequence in evaluation.sequences),
        "learned_tokens": evaluation.learned_tokens,
        "max_length": spec.training.max_length,
        "answers": len(evaluation.asked),
        "max_tokens": evaluation.max_tokens if evaluation.asked else None,
        "models": {
            title: {"id": made[title].manifest.id, "digest": made[title].manifest.digest, **_numbers(quality)}
            for title, quality in evaluation.qualities.items()
        },
    }


def _numbers(quality: Quality) -> dict[str, JsonValue]:
    # JSON has no infinity.
    told: dict[str, JsonValue] = {
        name: None if math.isinf(number) else number for name, number in quality.numbers.items()
    }
    if quality.likeness is None:
        return told
    return told | {
        "bleu": quality.likeness.bleu,
        "chrf": quality.likeness.chrf,
        "bleu_signature": quality.likeness.bleu_signature,
        "chrf_signature": quality.likeness.chrf_signature,
    }


def as_table(evaluation: Evaluation) -> str:
    """One column a model, one row a number, aligned."""
    qualities = evaluation.qualities.values()
    rows = [["", *evaluation.qualities]]
    for name, (title, form) in SHOWN.items():
        if found := [quality.numbers[name] for quality in qualities if name in quality.numbers]:
            rows.append([title, *map(form.format, found)])
    alike = [quality.likeness for quality in qualities if quality.likeness is not None]
    if alike:
        rows += [
            ["BLEU", *(f"{each.bleu:.2f}" for each in alike)],
            ["chrF", *(f"{each.chrf:.2f}" for each in alike)],
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )
