"""From records to what a model answers to them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TextIO

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, TextStreamer

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.answering.continuing import continue_all, stream
from hone_trainer.answering.probing import end_tokens
from hone_trainer.answering.sampling import Sampling
from hone_trainer.chat.conversation import render_prompt, see
from hone_trainer.record import Record
from hone_trainer.reporting.terminal import harmless


@dataclass(frozen=True)
class Asked:
    """A question in token ids, and what is expected to be said."""

    prompt: list[int]
    expected: str


def prompt_of(tokenizer: PreTrainedTokenizerBase, record: Record) -> list[int]:
    """A record's tokens up to its last answer, with its tools, as a server renders them.

    Raises BadInput when the chat template refuses that, or nothing stands before the answer.
    """
    prompt = _prompt(tokenizer, record, len(record.messages) - 1)
    if not prompt:
        raise BadInput(
            f"{record.source}: there is nothing to ask: the chat template refuses it, or it is plain text"
        )
    return prompt


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str, system: str | None) -> list[int]:
    """A question's tokens, as the user's turn. Raises BadConfiguration when no chat template writes it."""
    before = [] if system is None else [{"role": "system", "content": system}]
    try:
        return render_prompt(tokenizer, [*before, {"role": "user", "content": text}])
    except TemplateError as error:
        raise BadConfiguration(
            f"the chat template cannot write this question ({error}); pass chat=False to continue a text"
        ) from error


def plain_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's tokens, with what the tokenizer puts before every text."""
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def last_question(tokenizer: PreTrainedTokenizerBase, record: Record) -> Asked | None:
    """The last answer of a record that is learned, and what stands before it.

    None for plain text, and for what the chat template refuses without its answer. An answer that calls
    tools is expected as the template writes the call.
    """
    learned = [
        index
        for index, message in enumerate(record.messages)
        if message["role"] == "assistant" and message.get("weight") != 0
    ]
    prompt = _prompt(tokenizer, record, learned[-1])
    if not prompt:
        return None
    answer = record.messages[learned[-1]]
    if answer.get("tool_calls"):
        expected = tokenizer.decode(_last_learned(tokenizer, record)[1], skip_special_tokens=True)
    else:
        expected = answer["content"]
    return Asked(prompt, expected.strip())


def answer_all(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    sampling: Sampling,
    done: Callable[[int], object] | None = None,
) -> list[str]:
    """What the model says to each prompt, without special tokens; `done` is told how many more it did."""
    said = continue_all(model, prompts, sampling, end_tokens(model, tokenizer), done=done)
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said]


def stream_answer(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: list[int], sampling: Sampling, out: TextIO
) -> int:
    """Write what the model says to `out` as it comes, with a line end; how many tokens it were."""
    return len(stream(model, prompt, sampling, end_tokens(model, tokenizer), Streamer(tokenizer, out)))


class Streamer(TextStreamer):  # type: ignore[misc]
    """Writes whole words; to a terminal nothing that it would obey."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, out: TextIO) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.out = out

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        shown = harmless(text) if self.out.isatty() else text
        print(shown, file=self.out, flush=True, end="\n" if stream_end else "")


def _prompt(tokenizer: PreTrainedTokenizerBase, record: Record, answer: int) -> list[int]:
    """Tokens before message number `answer`; none where there is nothing to ask."""
    if record.text is not None:
        return _last_learned(tokenizer, record)[0]
    try:
        return render_prompt(tokenizer, record.messages[:answer], record.tools)
    except TemplateError:
        return []


def _last_learned(tokenizer: PreTrainedTokenizerBase, record: Record) -> tuple[list[int], list[int]]:
    """A record's tokens before the last part of it that is learned, and that part's."""
    seen = see(tokenizer, record)
    runs = [(learned, len(list(group))) for learned, group in groupby(seen.learned)]
    end = len(seen.ids) - (0 if runs[-1][0] else runs[-1][1])
    begin = end - [length for learned, length in runs if learned][-1]
    # What a tokenizer puts before every text asks nothing.
    asked = begin > 0 and not set(seen.ids[:begin]) <= {tokenizer.bos_token_id}
    return seen.ids[:begin] if asked else [], seen.ids[begin:end]
