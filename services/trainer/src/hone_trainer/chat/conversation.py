"""From a record to token ids and the tokens that are learned."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_trainer.chat.chat_templates import Span, Tools, render
from hone_trainer.chat.masks import spans_of_turns
from hone_trainer.record import Messages, Record

IGNORED = -100
"""The label of a token that is not learned, as PyTorch's cross-entropy has it."""


@dataclass(frozen=True)
class Sequence:
    """Token ids, and for each the id to learn or IGNORED; both of one length."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Seen:
    """A record as the model sees it: a text, its tokens, and which of them are learned."""

    text: str
    ids: list[int]
    spans: list[Span]
    """Where each token stands in the text, without the white space around it."""
    learned: list[bool]


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Tools | None = None
) -> list[int]:
    """Token ids of a conversation up to the assistant's turn, as a server renders it."""
    ids: list[int] = tokenizer(
        render(tokenizer, messages, tools, generation_prompt=True), add_special_tokens=False
    )["input_ids"]
    return ids


def to_sequence(tokenizer: PreTrainedTokenizerBase, record: Record, max_length: int) -> Sequence:
    """Tokenise a record; of a conversation, only what the assistant says with its end token is learned.

    Raises BadInput when the record is too long, the template refuses it or leaves something out, or what
    the assistant says cannot be told apart.
    """
    return _sequence(record, see(tokenizer, record), max_length)


def to_sequences(tokenizer: PreTrainedTokenizerBase, record: Record, max_length: int) -> list[Sequence]:
    """Likewise; of a preference pair, the question with each of its answers, the better one first."""
    return [_sequence(record, seen, max_length) for seen in see_all(tokenizer, record)]


def _sequence(record: Record, seen: Seen, max_length: int) -> Sequence:
    if len(seen.ids) > max_length:
        raise BadInput(
            f"{record.source}: has {len(seen.ids)} tokens, more than training.max_length {max_length}; "
            "raise it, or shorten the record"
        )
    labels = [token if learn else IGNORED for token, learn in zip(seen.ids, seen.learned, strict=True)]
    return Sequence(seen.ids, labels)


def see(tokenizer: PreTrainedTokenizerBase, record: Record) -> Seen:
    """The record's tokens, whatever their number. Raises BadInput as `to_sequence` does."""
    if record.is_preference:
        raise BadInput(
            f"{record.source}: is a preference pair; objective: dpo learns from pairs, and all else wants "
            "conversations that end with the answer"
        )
    seen = _see_conversation(tokenizer, record) if record.text is None else _see_text(tokenizer, record)
    # Nothing comes before a first token, so nothing can predict it.
    if not any(seen.learned[1:]):
        raise BadInput(
            f"{record.source}: holds nothing to learn; give an answer a weight other than 0, or remove it"
        )
    return seen


def see_all(tokenizer: PreTrainedTokenizerBase, record: Record) -> list[Seen]:
    """Each of a record's conversations, those of a preference pair with the same tokens for the question.

    Raises BadInput as `to_sequence` does, and when the question depends on the answer.
    """
    seen = [see(tokenizer, each) for each in record.conversations]
    questions = [each.ids[: each.learned.index(True)] for each in seen]
    if any(question != questions[0] for question in questions):
        raise BadInput(
            f"{record.source}: the base's chat template writes the question differently before its two "
            "answers, so they cannot be compared; set another model.chat_template"
        )
    return seen


def _see_conversation(tokenizer: PreTrainedTokenizerBase, record: Record) -> Seen:
    try:
        text = render(tokenizer, record.messages, record.tools)
        turns = spans_of_turns(tokenizer, record, text)
    except TemplateError as error:
        raise BadInput(f"{record.source}: the base's chat template refuses it: {error}") from error
    ids, spans = _tokenise(tokenizer, text)
    seen = Seen(text, ids, spans, _learned(spans, [span for turn in turns for span in turn]))
    for turn in turns:
        _check_end(tokenizer, record, seen, turn)
    return seen


def _see_text(tokenizer: PreTrainedTokenizerBase, record: Record) -> Seen:
    """A text gets what a server puts before a plain prompt, and an end token if its end is learned."""
    text, trained = str(record.text), [(start, end) for start, end in record.trained or []]
    ids, spans = _tokenise(tokenizer, text)
    learned = _learned(spans, trained)
    eos = tokenizer.eos_token
    if eos is not None and (len(text) in [end for _, end in trained]) and not text.endswith(eos):
        spans, learned = [*spans, (len(text), len(text) + len(eos))], [*learned, True]
        text, ids = text + eos, [*ids, tokenizer.eos_token_id]
    bos = _automatic_bos(tokenizer)
    if bos is not None and not text.startswith(bos):
        spans = [(0, len(bos)), *((start + len(bos), end + len(bos)) for start, end in spans)]
        text, ids, learned = bos + text, [tokenizer.bos_token_id, *ids], [False, *learned]
    return Seen(text, ids, spans, learned)


def _tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span]]:
    """Token ids, and where each stands: a token's white space at its ends does not count.

    So ` blue` belongs to whom `blue` belongs to. Some tokenizers leave spaces out of their offsets, and a
    token of spaces then has none: it begins where the token before it ended.
    """
    tokens: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans, position = [], 0
    for start, end in tokens["offset_mapping"]:
        begin = min(position, start) if start == end else start
        shown = text[begin:end]
        if shown.strip():
            begin, stop = end - len(shown.lstrip()), begin + len(shown.rstrip())
        else:
            stop = end
        spans.append((begin, stop))
        position = max(position, end)
    return tokens["input_ids"], spans


def _learned(spans: list[Span], parts: list[Span]) -> list[bool]:
    """A token that reaches over a border is not learned."""
    return [any(first <= start and end <= last for first, last in parts) for start, end in spans]


def _check_end(tokenizer: PreTrainedTokenizerBase, record: Record, seen: Seen, turn: list[Span]) -> None:
    """Raises BadInput when a turn does not end with a token that a server could stop at."""
    said = seen.text[: turn[-1][1]].rstrip()
    closing = [
        token
        for token, (_, end), learned in zip(seen.ids, seen.spans, seen.learned, strict=True)
        if learned and end == len(said)
    ]
    if not _added_tokens(tokenizer).intersection(closing):
        raise BadInput(
            f"{record.source}: the base's chat template ends the assistant's turn with {said[-12:]!r}, "
            "where no token of its own tells a model to stop; set model.chat_template: chatml, or a "
            "template that writes the end token of this base"
        )


@lru_cache(maxsize=8)
def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that no text is merged into. Some tokenizers have thousands, so they are kept."""
    return frozenset(tokenizer.added_tokens_decoder)


@lru_cache(maxsize=8)
def _automatic_bos(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The token that the tokenizer itself puts before a text, as it does for a completion's prompt."""
    before: list[int] = tokenizer("")["input_ids"]
    return tokenizer.bos_token if before and before[0] == tokenizer.bos_token_id else None
