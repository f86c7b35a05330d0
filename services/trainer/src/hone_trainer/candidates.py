"""The models that are compared: a base, what a run made of it, and what was merged from that."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from hone_trainer.lookup import Found
from hone_trainer.models import load_base, load_tuned

Made = TypeVar("Made")
Ask = Callable[[str, Any], Made]
"""Is given a model's title and the model, in evaluation mode."""


def quiet() -> None:
    """The bars of transformers would stand between our lines."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def tokenizer_of(found: Found) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template that was sealed with the model."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(found.artifact.path)
    return tokenizer


def ask_each(
    found: Found, dtype: torch.dtype, ask: Ask[Made], *, compare: bool, merged: Found | None = None
) -> dict[str, Made]:
    """What `ask` makes of each model, by its title; one is loaded at a time.

    With `compare` the base comes first; last comes what was `merged` from the model, if given.
    """
    answers: dict[str, Made] = {}
    if found.artifact.manifest.kind == "adapter":
        answers |= _ask_adapter(found, dtype, ask, compare)
    else:
        titles = {"base": "base", "model": "merged"}
        if compare:
            answers["base"] = ask("base", load_base(found.base.path, dtype))
            _free()
        title = titles.get(found.artifact.manifest.kind, "tuned")
        answers[title] = ask(title, load_base(found.artifact.path, dtype))
    if merged is not None:
        _free()
        answers["merged"] = ask("merged", load_base(merged.artifact.path, dtype))
    return answers


def _ask_adapter(found: Found, dtype: torch.dtype, ask: Ask[Made], compare: bool) -> dict[str, Made]:
    """The base is the same model without its adapter, so it is loaded once."""
    model = load_tuned(found.artifact, found.base.path, dtype)
    answers: dict[str, Made] = {}
    if compare:
        with model.disable_adapter():
            answers["base"] = ask("base", model)
    return answers | {"tuned": ask("tuned", model)}


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
