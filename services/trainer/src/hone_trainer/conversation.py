"""From a conversation to token ids and the tokens that are learned, for any chat template."""

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_trainer.record import Messages, Record

IGNORED = -100
"""The label of a token that is not learned, as PyTorch's cross-entropy has it."""


@dataclass(frozen=True)
class Sequence:
    """Token ids, and for each the id to learn or IGNORED; both of one length."""

    input_ids: list[int]
    labels: list[int]


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of a conversation up to the assistant's turn, as a server renders it."""
    text = _render(tokenizer, messages, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def to_sequence(tokenizer: PreTrainedTokenizerBase, record: Record, max_length: int) -> Sequence:
    """Tokenise a record; only what the assistant says, with its end token, is learned.

    What belongs to the assistant is found by rendering the conversation up to each of its turns,
    with and without the turn, so no template needs to mark it. Raises BadInput when the record is
    too long, or the template refuses it or does not keep earlier turns as they were.
    """
    try:
        text = _render(tokenizer, record.messages)
        spans = _assistant_spans(tokenizer, record, text)
    except TemplateError as error:
        raise BadInput(f"{record.source}: the base's chat template refuses it: {error}") from error
    tokens: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = tokens["input_ids"]
    if len(ids) > max_length:
        raise BadInput(
            f"{record.source}: has {len(ids)} tokens, more than training.max_length {max_length}; "
            "raise it, or shorten the record"
        )
    learned = [any(a <= start and end <= b for a, b in spans) for start, end in tokens["offset_mapping"]]
    return Sequence(ids, [token if learn else IGNORED for token, learn in zip(ids, learned, strict=True)])


def _assistant_spans(tokenizer: PreTrainedTokenizerBase, record: Record, text: str) -> list[tuple[int, int]]:
    """Character spans in `text` of what the assistant says, up to and with its end token."""
    spans = []
    for index, message in enumerate(record.messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, record.messages[:index], add_generation_prompt=True)
        # Templates put white space after the end token; a model need not learn to say it.
        through = _render(tokenizer, record.messages[: index + 1]).rstrip()
        if not (text.startswith(through) and through.startswith(before)):
            raise BadInput(
                f"{record.source}: the base's chat template rewrites earlier turns, so the assistant's words "
                "cannot be told apart; split the conversation into one record a turn"
            )
        spans.append((len(before), len(through)))
    return spans


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool = False
) -> str:
    text: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return text
