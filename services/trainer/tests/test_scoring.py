"""Scores and answers of batches are those of each sequence by itself."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from hone_trainer.conversation import IGNORED, Sequence
from hone_trainer.scoring import Scored, mean_loss, say, score

END = {2}


def sequence(length: int, learned: int, seed: int) -> Sequence:
    """Random tokens, of which the last `learned` are learned."""
    ids = torch.randint(3, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Sequence(ids, [IGNORED] * (length - learned) + ids[length - learned :])


SEQUENCES = [sequence(length, min(length - 1, 5), length) for length in (40, 3, 17, 2, 29, 8, 8, 33, 12, 5)]
PROMPTS = [each.input_ids for each in SEQUENCES]


@torch.inference_mode()
def naive(model: LlamaForCausalLM, scored: Sequence) -> list[float]:
    """Token by token, each from its own forward pass."""
    logprobs = []
    for index, label in enumerate(scored.labels):
        if label != IGNORED:
            logits: Any = model(input_ids=torch.tensor([scored.input_ids[:index]])).logits[0, -1]
            logprobs.append(float(logits.double().log_softmax(-1)[label]))
    return logprobs


@torch.inference_mode()
def said_alone(model: LlamaForCausalLM, prompt: list[int], tokens: int, end: set[int]) -> list[int]:
    generate: Any = model.generate
    ids = torch.tensor([prompt])
    output = generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=sorted(end),
    )
    said: list[int] = output[0, len(prompt) :].tolist()
    return said


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_scores_are_those_of_each_sequence_alone(llama: LlamaForCausalLM, batch_size: int) -> None:
    scored = score(llama, SEQUENCES, batch_size)
    assert len(scored) == len(SEQUENCES)
    for found, each in zip(scored, SEQUENCES, strict=True):
        assert found.logprobs == pytest.approx(naive(llama, each), abs=1e-4)


def test_padding_does_not_change_a_score(llama: LlamaForCausalLM) -> None:
    short, long = sequence(6, 4, 1), sequence(60, 4, 2)
    [alone] = score(llama, [short])
    beside, _ = score(llama, [short, long])
    assert beside.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_only_learned_tokens_are_scored_wherever_they_stand(llama: LlamaForCausalLM) -> None:
    ids = sequence(12, 0, 3).input_ids
    learned = Sequence(ids, [ids[i] if i in (4, 5, 9) else IGNORED for i in range(12)])
    everything = naive(llama, Sequence(ids, [IGNORED, *ids[1:]]))
    [found] = score(llama, [learned])
    assert found.logprobs == pytest.approx([everything[i - 1] for i in (4, 5, 9)], abs=1e-4)


def test_scores_are_computed_in_float32_when_the_model_is_not(llama: LlamaForCausalLM) -> None:
    half = LlamaForCausalLM(llama.config).to(torch.bfloat16).eval()
    [found] = score(half, [SEQUENCES[0]])
    assert any(value != torch.tensor(value, dtype=torch.bfloat16).item() for value in found.logprobs)


def test_the_loss_is_a_mean_over_tokens_not_over_records() -> None:
    assert mean_loss([Scored([-1.0, -2.0, -3.0]), Scored([-10.0])]) == pytest.approx(4.0)
    assert mean_loss([Scored([math.log(0.5)])]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_answers_are_those_to_each_prompt_alone(llama: LlamaForCausalLM, batch_size: int) -> None:
    answers = say(llama, PROMPTS, 12, END, batch_size)
    assert answers == [said_alone(llama, prompt, 12, END) for prompt in PROMPTS]


def test_an_answer_stops_at_the_first_end_token_and_keeps_it(llama: LlamaForCausalLM) -> None:
    whole = say(llama, PROMPTS, 12, END)
    end = {whole[0][4], whole[1][7]}
    answers = say(llama, PROMPTS, 12, end)
    for answer, all_of_it in zip(answers, whole, strict=True):
        stop = next((i for i, token in enumerate(all_of_it) if token in end), len(all_of_it) - 1)
        assert answer == all_of_it[: stop + 1]
    assert min(map(len, answers)) < max(map(len, answers)) == 12
    assert answers == [said_alone(llama, prompt, 12, end) for prompt in PROMPTS]
