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
from hone_trainer.answering.metrics import Likeness, likeness, perplexity
from hone_trainer.answering.sampling import Sampling
from hone_trainer.answering.scoring import mean_loss, score, token_accuracy
from hone_trainer.chat.conversation import IGNORED, Sequence, to_sequence
from hone_trainer.models import pick_dtype, quiet


@dataclass(frozen=True)
class Quality:
    """What one model came to."""

    eval_loss: float
    """Mean cross-entropy in nats a learned token."""
    token_accuracy: float
    """Share of the learned tokens that the model finds likeliest, given the true ones before."""
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

    An answer may have `max_tokens`; None is twice the longest that is expected. Raises BadInput for a
    record longer than in training, and for a loss that is no number.
    """
    quiet()
    tokenizer = tokenizer_of(found.artifact, found.base)
    sequences = [to_sequence(tokenizer, record, spec.training.max_length) for record in data.records]
    questions = [last_question(tokenizer, record) for record in data.records] if generation else []
    asked = [question for question in questions if question is not None]
    limit = max_tokens or _enough(tokenizer, asked, spec.training.max_length)

    def judge(title: str, model: Any) -> Quality:
        return _judge(title, model, tokenizer, sequences, asked, Sampling(max_tokens=limit), reporter)

    dtype = pick_dtype(spec.training)
    qualities = ask_each(found, dtype, judge, compare=True, merged=merged)
    return Evaluation(sequences, asked, limit, qualities)


def _judge(
    title: str,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    sequences: list[Sequence],
    asked: list[Asked],
    sampling: Sampling,
    reporter: Reporter,
) -> Quality:
    with Progress(f"{title}: scoring", "records", len(sequences), reporter) as progress:
        scored = score(model, sequences, done=progress.advance)
    loss = mean_loss(scored)
    if not math.isfinite(loss):
        raise BadInput(f"{title}: the evaluation loss is {loss}; its weights, or training.dtype, are no good")
    alike = None
    if asked:
        with Progress(f"{title}: answering", "records", len(asked), reporter) as progress:
            prompts = [each.prompt for each in asked]
            said = answer_all(model, tokenizer, prompts, sampling, progress.advance)
        alike = likeness([each.strip() for each in said], [each.expected for each in asked])
    quality = Quality(loss, token_accuracy(scored), alike)
    reporter.tell("evaluated", f"{title}: evaluation loss {loss:.3f}", model=title, eval_loss=loss)
    return quality


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
    told: dict[str, JsonValue] = {
        "eval_loss": quality.eval_loss,
        # JSON has no infinity.
        "perplexity": None if math.isinf(doubt := perplexity(quality.eval_loss)) else doubt,
        "token_accuracy": quality.token_accuracy,
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
    rows = [
        ["", *evaluation.qualities],
        ["eval loss", *(f"{quality.eval_loss:.4f}" for quality in qualities)],
        ["perplexity", *(f"{perplexity(quality.eval_loss):.3f}" for quality in qualities)],
        ["token accuracy", *(f"{quality.token_accuracy:.1%}" for quality in qualities)],
    ]
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
