"""What a model makes of given tokens, and what it says by itself; one sequence at a time."""

from typing import Any

import torch


@torch.inference_mode()
def score(model: Any, prompt: list[int], continuation: list[int]) -> list[float]:
    """log p(token | prompt and the tokens before it), natural, one a continuation token, in float32."""
    ids = torch.tensor([prompt + continuation], device=model.device)
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])
    values: list[float] = chosen[:, 0].tolist()
    return values


@torch.inference_mode()
def say(model: Any, prompt: list[int], max_new_tokens: int) -> list[int]:
    """A greedy continuation as token ids."""
    ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens
