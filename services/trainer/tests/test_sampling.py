"""How tokens are chosen: what the settings may be, and what they do."""

import argparse
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from hone_contract.errors import BadConfiguration
from hone_trainer.answering.continuing import continue_all
from hone_trainer.answering.sampling import Sampling, add_sampling, sampling_of
from hone_trainer.answering.scoring import say

END = {2}
LENGTHS = (6, 20, 11, 6, 3)


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(3, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


PROMPTS = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]
GREEDY = Sampling(max_tokens=12)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_tokens": 0}, "max_tokens must be 1 or more, not 0"),
        ({"temperature": -0.1}, "temperature must be from 0 to 2, not -0.1"),
        ({"temperature": float("nan")}, "temperature must be from 0 to 2, not nan"),
        ({"temperature": 1, "top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"temperature": 1, "top_k": -1}, "top_k must be 0 or more, not -1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, not 0"),
        ({"no_repeat_ngram_size": -3}, "no_repeat_ngram_size must be 0 or more, not -3"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"top_p": 0.9}, "at temperature 0 none is; set a temperature"),
        ({"top_k": 5}, "at temperature 0 none is; set a temperature"),
    ],
)
def test_a_value_that_means_nothing_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadConfiguration, match=told):
        Sampling(**values)


def test_without_options_the_likeliest_token_is_taken_and_nothing_is_held_against_any() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-tokens", type=int, default=512)
    add_sampling(parser)
    assert sampling_of(parser.parse_args([])) == Sampling()
    guide = "--temperature 0.8 --top-p 0.9 --repetition-penalty 1.3 --no-repeat-ngram-size 3 --seed 5"
    assert sampling_of(parser.parse_args(guide.split())) == Sampling(512, 0.8, 0.9, 0, 1.3, 3, 5)


def test_the_bases_own_generation_config_does_not_count(llama: LlamaForCausalLM) -> None:
    """Instruction-tuned bases often ship one with a temperature and a penalty."""
    expected = continue_all(llama, PROMPTS, GREEDY, END)
    own = llama.generation_config
    before = own.to_dict()
    own.update(do_sample=True, temperature=1.9, top_k=3, repetition_penalty=9.0, no_repeat_ngram_size=1)
    try:
        assert continue_all(llama, PROMPTS, GREEDY, END) == expected
        assert say(llama, PROMPTS, 12, END) == expected
    finally:
        own.update(**before)


@pytest.mark.parametrize("more", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}])
def test_the_padding_of_a_batch_is_not_looked_back_at(llama: LlamaForCausalLM, more: dict[str, Any]) -> None:
    # Token 0 is what shorter prompts are padded with; here the models likes to say it.
    head = llama.lm_head.weight.data
    before = head[0].clone()
    try:
        head[0] = 1.5 * head[continue_all(llama, [PROMPTS[0]], GREEDY, END)[0][1]]
        sampling = Sampling(max_tokens=12, **more)
        alone = [continue_all(llama, [each], sampling, END)[0] for each in PROMPTS]
        assert any(0 in answer for answer in alone)
        assert continue_all(llama, PROMPTS, sampling, END) == alone
    finally:
        head[0] = before


def test_no_run_of_tokens_comes_twice(llama: LlamaForCausalLM) -> None:
    def repeats(sampling: Sampling) -> int:
        pairs = [pair for each in continue_all(llama, PROMPTS, sampling, END) for pair in pairwise(each)]
        return len(pairs) - len(set(pairs))

    alone = [PROMPTS[0]]
    [said] = continue_all(llama, alone, Sampling(max_tokens=60, no_repeat_ngram_size=2), END)
    pairs = list(pairwise([*PROMPTS[0], *said]))
    assert len(set(pairs)) == len(pairs)
    assert repeats(Sampling(max_tokens=60)) > repeats(Sampling(max_tokens=60, no_repeat_ngram_size=2))


def test_a_penalty_makes_repeats_rarer(llama: LlamaForCausalLM) -> None:
    plain = continue_all(llama, PROMPTS, Sampling(max_tokens=40), END)
    penalised = continue_all(llama, PROMPTS, Sampling(max_tokens=40, repetition_penalty=3.0), END)
    kinds = [sum(len(set(answer)) / len(answer) for answer in answers) for answers in (plain, penalised)]
    assert kinds[1] > kinds[0]


def test_what_is_drawn_comes_from_its_seed_and_disturbs_no_other(
    llama: LlamaForCausalLM,
) -> None:
    def drawn(seed: int | None) -> list[list[int]]:
        return continue_all(llama, PROMPTS, Sampling(max_tokens=12, temperature=1.5, seed=seed), END)

    torch.manual_seed(1)
    first, after = drawn(5), torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    assert drawn(5) == first
    assert drawn(6) != first
    assert drawn(None) != drawn(None)


def test_of_one_likeliest_token_always_the_same_is_drawn(llama: LlamaForCausalLM) -> None:
    greedy = continue_all(llama, PROMPTS, GREEDY, END)
    assert continue_all(llama, PROMPTS, Sampling(12, temperature=2.0, top_k=1), END) == greedy
    assert continue_all(llama, PROMPTS, Sampling(12, temperature=1.0, top_p=1e-9), END) == greedy
    assert continue_all(llama, PROMPTS, Sampling(12, temperature=2.0, seed=3), END) != greedy


def test_without_top_k_every_token_can_be_drawn(llama: LlamaForCausalLM) -> None:
    """Transformers would take the 50 likeliest unless it is told otherwise."""
    with torch.inference_mode():
        logits = llama(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    likeliest = set(logits.topk(50).indices.tolist())
    drawn = {
        token
        for seed in range(40)
        for [token] in continue_all(llama, [PROMPTS[0]] * 8, Sampling(1, temperature=2.0, seed=seed), END)
    }
    assert drawn - likeliest
    few = {
        token
        for seed in range(40)
        for [token] in continue_all(llama, [PROMPTS[0]] * 8, Sampling(1, 2.0, top_k=50, seed=seed), END)
    }
    assert few <= likeliest


def test_progress_is_told_for_every_prompt(llama: LlamaForCausalLM) -> None:
    told: list[int] = []
    continue_all(llama, PROMPTS, Sampling(max_tokens=1), END, batch_size=2, done=told.append)
    assert told == [2, 2, 1]
