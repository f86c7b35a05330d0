"""What a model says by itself: continuations of prompts, in token ids."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig

from hone_trainer.answering.padding import in_batches, pad
from hone_trainer.answering.sampling import Sampling

Done = Callable[[int], object]
"""Is told how many more are done."""


@torch.inference_mode()
def continue_all(
    model: Any,
    prompts: list[list[int]],
    sampling: Sampling,
    end: set[int],
    batch_size: int = 16,
    done: Done | None = None,
) -> list[list[int]]:
    """A continuation of each prompt, with its end token (one of `end`) if it came to one.

    What the base's own `generation_config.json` says of temperature and penalties does not count.
    """
    model.eval()
    found: dict[int, list[int]] = {}
    with _seeded(model, sampling.seed):
        for indices in _alike(prompts, sampling, batch_size):
            said = continue_batch(model, [prompts[index] for index in indices], sampling, end)
            found.update(zip(indices, said, strict=True))
            if done is not None:
                done(len(indices))
    return [found[index] for index in range(len(prompts))]


@torch.inference_mode()
def stream(model: Any, prompt: list[int], sampling: Sampling, end: set[int], streamer: Any) -> list[int]:
    """Likewise of one prompt; `streamer` (see transformers' TextStreamer) gets each token as it comes."""
    model.eval()
    with _seeded(model, sampling.seed):
        [said] = continue_batch(model, [prompt], sampling, end, streamer)
    return said


def continue_batch(
    model: Any, prompts: list[list[int]], sampling: Sampling, end: set[int], streamer: Any = None
) -> list[list[int]]:
    """Continuations of prompts that are taken together, in one batch."""
    ids, mask = pad(prompts, left=True)
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=_config(sampling, end),
        streamer=streamer,
    )
    return [_until(row[ids.shape[1] :].tolist(), end) for row in output]


def _config(sampling: Sampling, end: set[int]) -> GenerationConfig:
    """Everything is said: what is left out would be taken from the base's own."""
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        do_sample=sampling.draws,
        **(drawn if sampling.draws else {"temperature": 1.0, "top_p": 1.0, "top_k": 50}),
        min_p=None,
        num_beams=1,
        repetition_penalty=sampling.repetition_penalty,
        no_repeat_ngram_size=sampling.no_repeat_ngram_size,
        eos_token_id=sorted(end),
        pad_token_id=min(end),
    )


def _alike(prompts: list[list[int]], sampling: Sampling, size: int) -> Iterator[list[int]]:
    """Numbers of prompts to take together: neighbours of like length waste little on padding.

    Of exactly one length where tokens are looked back at, since padding would be among them.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    if not sampling.looks_back:
        yield from in_batches(order, size)
        return
    for _, group in groupby(order, key=lambda index: len(prompts[index])):
        yield from in_batches(group, size)


@contextmanager
def _seeded(model: Any, seed: int | None) -> Iterator[None]:
    """What is drawn within comes from the seed; afterwards the caller's own draws go on as they would."""
    if seed is None:
        yield
        return
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _until(tokens: list[int], end: set[int]) -> list[int]:
    stop = next((index for index, token in enumerate(tokens) if token in end), len(tokens))
    return tokens[: stop + 1]
