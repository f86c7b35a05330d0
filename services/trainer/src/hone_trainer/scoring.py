"""What a model makes of given tokens, and what it says by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from hone_trainer.conversation import IGNORED, Sequence

Item = TypeVar("Item")


@dataclass(frozen=True)
class Scored:
    """Teacher-forced logprobs (natural logarithms) of the learned tokens of one sequence."""

    logprobs: list[float]


@torch.inference_mode()
def score(model: PreTrainedModel, sequences: list[Sequence], batch_size: int = 4) -> list[Scored]:
    """log p(token | all tokens before it) of every learned token, one list a sequence, in float32."""
    model.eval()
    found: dict[int, Scored] = {}
    # Neighbours of like length waste little on padding.
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].input_ids))
    for indices in _batches(order, batch_size):
        batch = [sequences[index] for index in indices]
        found.update(zip(indices, _score_batch(model, batch), strict=True))
    return [found[index] for index in range(len(sequences))]


def mean_loss(scored: list[Scored]) -> float:
    """Mean cross-entropy in nats a learned token, every token counting the same."""
    logprobs = [value for each in scored for value in each.logprobs]
    return -sum(logprobs) / max(1, len(logprobs))


@torch.inference_mode()
def say(
    model: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int, end: set[int], batch_size: int = 16
) -> list[list[int]]:
    """Greedy continuations as token ids, each with its end token if it came to one."""
    model.eval()
    answers: list[list[int]] = []
    for batch in _batches(prompts, batch_size):
        answers += _say_batch(model, batch, max_new_tokens, end)
    return answers


def _score_batch(model: PreTrainedModel, batch: list[Sequence]) -> list[Scored]:
    ids, mask = _pad([sequence.input_ids for sequence in batch], left=False)
    labels, _ = _pad([sequence.labels for sequence in batch], left=False, value=IGNORED)
    positions = torch.nonzero(labels[:, 1:] != IGNORED, as_tuple=True)
    hidden: Any = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    chosen = hidden[:, :-1][positions].float().log_softmax(-1)
    values = chosen.gather(-1, labels[:, 1:][positions].to(chosen.device)[:, None])[:, 0].tolist()
    rows = positions[0].tolist()
    return [
        Scored([value for value, at in zip(values, rows, strict=True) if at == row])
        for row in range(len(batch))
    ]


def _say_batch(
    model: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int, end: set[int]
) -> list[list[int]]:
    ids, mask = _pad(prompts, left=True)
    generate: Any = model.generate
    output = generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(end),
        pad_token_id=min(end),
    )
    return [_until(row[ids.shape[1] :].tolist(), end) for row in output]


def _until(tokens: list[int], end: set[int]) -> list[int]:
    stop = next((index for index, token in enumerate(tokens) if token in end), len(tokens))
    return tokens[: stop + 1]


def _pad(rows: list[list[int]], *, left: bool, value: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal length as one matrix (rows × longest), and its attention mask."""
    width = max(map(len, rows))
    padded, mask = [], []
    for row in rows:
        gap = width - len(row)
        padded.append([value] * gap + row if left else row + [value] * gap)
        mask.append([0] * gap + [1] * len(row) if left else [1] * len(row) + [0] * gap)
    return torch.tensor(padded), torch.tensor(mask)


def _batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
