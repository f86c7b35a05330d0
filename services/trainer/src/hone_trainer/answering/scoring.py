"""What a model makes of given tokens, and what it says by itself."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from hone_trainer.answering.continuing import continue_all
from hone_trainer.answering.padding import in_batches, pad
from hone_trainer.answering.sampling import Sampling
from hone_trainer.chat.conversation import IGNORED, Sequence

# Logits of one forward pass, at most, unless a single sequence has more: 512 MB in float32.
_LOGITS = 2**27
# Positions whose probabilities are computed at a time, in float32.
_AT_ONCE = 256


@dataclass(frozen=True)
class Scored:
    """Teacher-forced logprobs (natural logarithms) of the learned tokens of one sequence."""

    logprobs: list[float]
    correct: list[bool] = field(default_factory=list)
    """Whether each of them is the token that the model finds likeliest."""


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    sequences: list[Sequence],
    batch_size: int = 4,
    done: Callable[[int], object] | None = None,
) -> list[Scored]:
    """log p(token | all tokens before it) of every learned token, one list a sequence, in float32.

    `done` is told how many more sequences are scored.
    """
    model.eval()
    found: dict[int, Scored] = {}
    narrow = _keeps_few_logits(model)
    # Neighbours of like length waste little on padding.
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].input_ids))
    for indices in in_batches(order, batch_size):
        for batch in _fitting(model, sequences, indices, narrow):
            scored = _score_batch(model, [sequences[index] for index in batch], narrow)
            found.update(zip(batch, scored, strict=True))
            if done is not None:
                done(len(batch))
    return [found[index] for index in range(len(sequences))]


def mean_loss(scored: list[Scored]) -> float:
    """Mean cross-entropy in nats a learned token, every token counting the same."""
    logprobs = [value for each in scored for value in each.logprobs]
    return -sum(logprobs) / max(1, len(logprobs))


def token_accuracy(scored: list[Scored]) -> float:
    """Share of the learned tokens that the model finds likeliest, given the true ones before them."""
    correct = [value for each in scored for value in each.correct]
    return sum(correct) / max(1, len(correct))


def say(
    model: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int, end: set[int], batch_size: int = 16
) -> list[list[int]]:
    """Greedy continuations as token ids, each with its end token if it came to one."""
    return continue_all(model, prompts, Sampling(max_tokens=max_new_tokens), end, batch_size)


def _keeps_few_logits(model: Any) -> bool:
    """Whether the forward pass can be asked for the logits of some positions only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def _fitting(model: Any, sequences: list[Sequence], indices: list[int], narrow: bool) -> Iterator[list[int]]:
    """The batch, or its sequences one by one where its logits would need too much memory."""
    batch = [sequences[index] for index in indices]
    positions = max(len(sequence.input_ids) for sequence in batch)
    if narrow:
        learned = sum(label != IGNORED for sequence in batch for label in sequence.labels)
        positions = min(positions, learned)
    logits = len(batch) * positions * model.config.get_text_config().vocab_size
    yield from in_batches(indices, len(indices) if logits <= _LOGITS else 1)


def _score_batch(model: Any, batch: list[Sequence], narrow: bool) -> list[Scored]:
    ids, mask = pad([sequence.input_ids for sequence in batch], left=False)
    labels, _ = pad([sequence.labels for sequence in batch], left=False, value=IGNORED)
    # A token is predicted at the position before its own.
    rows, columns = torch.nonzero(labels[:, 1:] != IGNORED, as_tuple=True)
    targets = labels[:, 1:][rows, columns]
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    if narrow:
        kept, columns = torch.unique(columns, return_inverse=True)
        inputs["logits_to_keep"] = kept.to(model.device)
    logits = model(**inputs).logits
    logprobs, correct = _at(logits, rows, columns, targets)
    at = rows.tolist()
    return [
        Scored(
            [value for value, index in zip(logprobs, at, strict=True) if index == row],
            [value for value, index in zip(correct, at, strict=True) if index == row],
        )
        for row in range(len(batch))
    ]


def _at(
    logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, targets: torch.Tensor
) -> tuple[list[float], list[bool]]:
    """Each target's logprob, and whether it is the likeliest; logits: rows × positions × vocabulary."""
    logprobs: list[float] = []
    correct: list[bool] = []
    for start in range(0, len(targets), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        chosen = logits[rows[part], columns[part]].float()
        wanted = targets[part].to(chosen.device)
        logprobs += chosen.log_softmax(-1).gather(-1, wanted[:, None])[:, 0].tolist()
        correct += (chosen.argmax(-1) == wanted).tolist()
    return logprobs, correct
