"""Lets a model give what is made of its learned tokens' logits without ever having all logits."""

import types
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from peft import PeftModel

# Settings of heads that change the logits; TRL's fused head knows them all.
_CHANGES = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)

Reduce = Callable[[torch.Tensor, torch.nn.Linear, torch.Tensor], torch.Tensor]
"""Of the last states (tokens × size), the head and the labels (tokens)."""


def add_reduced(model: Any, reduce: Reduce) -> bool:
    """Let `model(..., labels=…, reduced=True)` give `reduce` of a pass; False if the head is not that plain.

    On a GPU TRL's fused head does so with a kernel of its own, and it knows heads that this does not.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    changed = any(getattr(config, name, None) not in (None, 1.0) for name in _CHANGES)
    mixture = getattr(config, "output_router_logits", None) is not None
    if base.base_model is base or type(head) is not torch.nn.Linear or changed or mixture:
        return False
    original = base.forward

    @wraps(type(base).forward)
    def forward(self: Any, *arguments: Any, reduced: bool = False, labels: Any = None, **options: Any) -> Any:
        if not reduced:
            return original(*arguments, **options, **({} if labels is None else {"labels": labels}))
        hidden = self.base_model(*arguments, **options).last_hidden_state
        # A row's first token has no label, so the rows can stand one after another.
        return reduce(hidden.flatten(0, 1), self.get_output_embeddings(), labels.flatten())

    base.forward = types.MethodType(forward, base)
    return True
