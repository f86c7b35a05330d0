"""Chooses and records the probes that travel with an adapter (see hone_contract.probes)."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, sha256_of
from hone_contract.probes import Probe, Probes
from hone_trainer.conversation import IGNORED, Sequence, render_prompt
from hone_trainer.record import Record
from hone_trainer.scoring import say, score

_CANDIDATES = 16
_KEPT = 8
_TOKENS = 24


def make_probes(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, base: Path, records: list[Record]
) -> Probes:
    """Let the adapter model answer a sample of the records, and score its answers with and without it.

    Kept are the answers on which the two differ most: there a server that serves the base, or a
    subtle mistake in the merge, shows most clearly.
    """
    conversations = [record.messages[:-1] for record in _spread(records, _CANDIDATES)]
    prompts = [render_prompt(tokenizer, messages) for messages in conversations]
    answers = say(model, prompts, _TOKENS, end_tokens(model, tokenizer))
    sequences = [_continuation(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    adapter = score(model, sequences)
    with model.disable_adapter():
        base_scores = score(model, sequences)
    probes = [
        Probe(
            messages=conversations[index],
            prompt_token_ids=prompts[index],
            continuation_token_ids=answers[index],
            base=base_scores[index].logprobs,
            adapter=adapter[index].logprobs,
        )
        for index in range(len(sequences))
    ]
    return Probes(
        tokenizer_sha256=sha256_of(base, TOKENIZER),
        chat_template_sha256=sha256_of(base, CHAT_TEMPLATE),
        probes=sorted(probes, key=_difference, reverse=True)[:_KEPT],
    )


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends an answer: the generation config may name several."""
    named = model.generation_config.eos_token_id
    ids = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    return {int(token) for token in ids if token is not None}


def _difference(probe: Probe) -> float:
    """Mean |log p(adapter) - log p(base)| over the continuation."""
    deltas = [abs(a - b) for a, b in zip(probe.adapter, probe.base, strict=True)]
    return sum(deltas) / max(1, len(deltas))


def _continuation(prompt: list[int], answer: list[int]) -> Sequence:
    return Sequence(prompt + answer, [IGNORED] * len(prompt) + answer)


def _spread(records: list[Record], count: int) -> list[Record]:
    """At most `count` records, evenly spread over the whole list."""
    step = max(1, len(records) // count)
    return records[::step][:count]
