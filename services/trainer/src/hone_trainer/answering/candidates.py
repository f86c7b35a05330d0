"""The models that are compared: a base, what a run made of it, and what was merged from that."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hone_contract.artifact import Artifact
from hone_contract.model_files import CHAT_TEMPLATE
from hone_trainer.answering.lookup import Found
from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.models import free_memory, load_base, load_tuned

Made = TypeVar("Made")
Ask = Callable[[str, Any], Made]
"""Is given a model's title and the model, in evaluation mode."""


def tokenizer_of(artifact: Artifact, base: Artifact) -> PreTrainedTokenizerBase:
    """The base's tokenizer, as training loads it, with the chat template that was sealed with the model.

    An adapter has the same files but no `config.json`, by which transformers chooses a tokenizer's class.
    """
    template = artifact.path / CHAT_TEMPLATE
    if template.is_file():
        return load_tokenizer(base.path, template.read_text(encoding="utf-8"))
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base.path)
    return tokenizer


def load(artifact: Artifact, base: Artifact, dtype: torch.dtype) -> Any:
    """A base, what a run made of it, or a merged model, in evaluation mode."""
    if artifact.manifest.kind in ("adapter", "weights"):
        return load_tuned(artifact, base.path, dtype)
    return load_base(artifact.path, dtype)


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
            answers["base"] = ask("base", load(found.base, found.base, dtype))
            free_memory()
        title = titles.get(found.artifact.manifest.kind, "tuned")
        answers[title] = ask(title, load(found.artifact, found.base, dtype))
    if merged is not None:
        free_memory()
        answers["merged"] = ask("merged", load(merged.artifact, merged.base, dtype))
    return answers


def _ask_adapter(found: Found, dtype: torch.dtype, ask: Ask[Made], compare: bool) -> dict[str, Made]:
    """The base is the same model without its adapter, so it is loaded once."""
    model = load(found.artifact, found.base, dtype)
    answers: dict[str, Made] = {}
    if compare:
        with model.disable_adapter():
            answers["base"] = ask("base", model)
    return answers | {"tuned": ask("tuned", model)}
