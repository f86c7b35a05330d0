"""Chooses and records the probes that travel with an adapter (see hone_contract.probes)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, sha256_of
from hone_contract.probes import Probe, Probes, mean_delta
from hone_trainer.answering.scoring import say, score
from hone_trainer.chat.chat_templates import Tools, client_messages
from hone_trainer.chat.conversation import IGNORED, Sequence, render_prompt
from hone_trainer.models import Pair
from hone_trainer.record import Messages, Record

_CANDIDATES = 16
_KEPT = 8
_TOKENS = 24
_CHARACTERS = 200


@dataclass(frozen=True)
class Question:
    """A conversation that the assistant is to answer, as a client would send it."""

    messages: Messages
    tools: Tools | None
    prompt: list[int]
    """Its token ids, with the generation prompt."""
    reference: str | None = None
    """The answer in the data."""


def questions(tokenizer: PreTrainedTokenizerBase, records: list[Record]) -> list[Question]:
    """A sample of the records' conversations, without those that the chat template refuses.

    Raises BadInput when it refuses all: a model without probes could not be served.
    """
    asked = [_question(tokenizer, record) for record in _spread(records, _CANDIDATES)]
    taken = [question for question in asked if question is not None]
    if not taken:
        raise BadInput(
            f"{records[0].source}: the chat template refuses this conversation without its answer, and "
            f"{len(asked) - 1} others, so there is nothing to prove the served model with; "
            "set another model.chat_template"
        )
    return taken


def make_probes(
    pair: Pair, tokenizer: PreTrainedTokenizerBase, folder: Path, asked: list[Question]
) -> Probes:
    """Let the tuned model answer the questions, and score its answers by it and by its base.

    Kept are the answers on which the two differ most: there a server that serves the base, or a
    subtle mistake in the merge, shows most clearly. `folder` has the tokenizer's files.
    """
    prompts = [question.prompt for question in asked]
    answers = say(pair.tuned, prompts, _TOKENS, end_tokens(pair.tuned, tokenizer))
    sequences = [_continuation(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    adapter = score(pair.tuned, sequences)
    with pair.as_base() as base:
        base_scores = score(base, sequences)
    probes = [
        Probe(
            messages=question.messages,
            tools=question.tools,
            prompt_token_ids=question.prompt,
            continuation_token_ids=answers[index],
            base=base_scores[index].logprobs,
            adapter=adapter[index].logprobs,
        )
        for index, question in enumerate(asked)
    ]
    return Probes(
        tokenizer_sha256=sha256_of(folder, TOKENIZER),
        chat_template_sha256=sha256_of(folder, CHAT_TEMPLATE),
        probes=sorted(probes, key=_effect, reverse=True)[:_KEPT],
    )


def add_trained(probes: Probes, trained: Any) -> Probes:
    """With what the model as it was trained, its base in 4 bits, makes of the answers."""
    scores = score(trained, [_continuation(*text) for text in probes.texts])
    return probes.scored("trained", [each.logprobs for each in scores])


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends an answer: the generation config may name several."""
    named = model.generation_config.eos_token_id
    ids = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    return {int(token) for token in ids if token is not None}


def _question(tokenizer: PreTrainedTokenizerBase, record: Record) -> Question | None:
    messages = client_messages(record.messages[:-1])
    if not messages:
        if record.text is None:
            return None
        messages = [{"role": "user", "content": record.text[:_CHARACTERS]}]
    try:
        prompt = render_prompt(tokenizer, messages, record.tools)
    except TemplateError:
        return None
    reference = record.messages[-1]["content"] if record.messages else None
    return Question(messages, record.tools, prompt, reference)


def _effect(probe: Probe) -> float:
    """How far the tuned model is from its base."""
    return mean_delta([probe.adapter], [probe.base])


def _continuation(prompt: list[int], answer: list[int]) -> Sequence:
    return Sequence(prompt + answer, [IGNORED] * len(prompt) + answer)


def _spread(records: list[Record], count: int) -> list[Record]:
    """At most `count` records, evenly spread over the whole list."""
    step = max(1, len(records) // count)
    return records[::step][:count]
