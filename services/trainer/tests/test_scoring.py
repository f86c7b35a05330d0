"""Scores and answers of batches are those of each sequence by itself."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from hone_trainer.answering.scoring import Scored, mean_loss, say, score, token_accuracy
from hone_trainer.chat.conversation import IGNORED, Sequence

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


@torch.inference_mode()
def test_a_token_is_correct_when_the_model_finds_it_likeliest(llama: LlamaForCausalLM) -> None:
    ids = sequence(6, 0, 4).input_ids
    [said] = say(llama, [ids], 5, END)
    wrong = (said[2] + 1) % 256
    learned = Sequence([*ids, *said[:2], wrong], [*[IGNORED] * 6, *said[:2], wrong])
    scored = score(llama, [learned, *SEQUENCES])
    assert scored[0].correct == [True, True, False]
    expected = [
        int(llama(input_ids=torch.tensor([each.input_ids[:index]])).logits[0, -1].argmax()) == label
        for each in SEQUENCES
        for index, label in enumerate(each.labels)
        if label != IGNORED
    ]
    assert [correct for each in scored[1:] for correct in each.correct] == expected
    assert token_accuracy(scored) == pytest.approx((2 + sum(expected)) / (3 + len(expected)))


class _Watched(LlamaForCausalLM):  # type: ignore[misc]
    """Keeps how many logits each forward pass computed."""

    def forward(self, *arguments: Any, logits_to_keep: Any = 0, **named: Any) -> Any:
        output = super().forward(*arguments, logits_to_keep=logits_to_keep, **named)
        self.computed = [*getattr(self, "computed", []), tuple(output.logits.shape[:2])]
        return output


class _Wide(LlamaForCausalLM):  # type: ignore[misc]
    """Cannot be asked for some logits only."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask)


def like(llama: LlamaForCausalLM, kind: type[LlamaForCausalLM]) -> Any:
    model = kind(llama.config).eval()
    model.load_state_dict(llama.state_dict())
    return model


def test_only_the_logits_of_learned_tokens_are_computed(llama: LlamaForCausalLM) -> None:
    model = like(llama, _Watched)
    batch = [sequence(40, 3, 1), sequence(40, 5, 2)]
    found = score(model, batch)
    assert model.computed == [(2, 5)]
    assert found == score(llama, batch)


def test_a_model_that_computes_all_logits_scores_the_same(llama: LlamaForCausalLM) -> None:
    for wide, narrow in zip(score(like(llama, _Wide), SEQUENCES), score(llama, SEQUENCES), strict=True):
        assert wide.logprobs == pytest.approx(narrow.logprobs, abs=1e-5)
        assert wide.correct == narrow.correct


def test_a_batch_with_too_many_logits_is_taken_apart(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, together = like(llama, _Watched), score(llama, SEQUENCES)
    monkeypatch.setattr("hone_trainer.answering.scoring._LOGITS", llama.config.vocab_size)
    monkeypatch.setattr("hone_trainer.answering.scoring._AT_ONCE", 2)
    for alone, beside in zip(score(model, SEQUENCES), together, strict=True):
        assert alone.logprobs == pytest.approx(beside.logprobs, abs=1e-5)
        assert alone.correct == beside.correct
    assert [rows for rows, _ in model.computed] == [1] * len(SEQUENCES)


def test_a_sequence_without_a_learned_token_has_no_scores(llama: LlamaForCausalLM) -> None:
    silent = Sequence([5, 6, 7], [IGNORED] * 3)
    assert score(llama, [silent]) == [Scored([])]
    assert score(llama, [silent, SEQUENCES[0]])[0] == Scored([])


def test_progress_is_told_for_every_sequence(llama: LlamaForCausalLM) -> None:
    told: list[int] = []
    score(llama, SEQUENCES, 4, told.append)
    assert told == [4, 4, 2]
