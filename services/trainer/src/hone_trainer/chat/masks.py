"""Finds what the assistant says in a rendered conversation, whatever the chat template.

There are three ways, and the first that holds is taken. None of them guesses: what is found must be the
message, or the record is refused.

1. The template marks it with `{% generation %}`. Only the marks are transformers'; its mask of tokens loses
   its way where a part begins or ends with white space.
2. The conversation up to the turn, with the generation prompt, begins the one through the turn, and that
   begins the whole.
3. The template writes earlier turns otherwise once others follow: Mistral's system prompt moves to the last
   user turn, Qwen3 drops earlier thinking. Then the whole is rendered once more with a marker in the
   place of the message: what stands before and after the marker must stand before and after the message.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from hone_contract.errors import BadInput
from hone_trainer.chat.chat_templates import Span, render, render_marked
from hone_trainer.record import Message, Messages, Record

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# As transformers' templates know it: what stands before is dropped from earlier turns.
_END_OF_THINKING = re.compile(r"(?:</|\[/|<\|end_of_)(?:think|thinking|thought|reasoning)\|?[>\]]", re.I)


def spans_of_turns(tokenizer: PreTrainedTokenizerBase, record: Record, text: str) -> list[list[Span]]:
    """The parts of `text`, the whole rendering, that are learned: those of each turn, with its end token.

    Turns of weight 0 are left out. Raises BadInput when a turn cannot be told apart for certain, and
    jinja2.TemplateError when the template refuses the conversation up to a turn.
    """
    case = _Case(tokenizer, record, text)
    _check_tools(case)
    if _MARKS.search(tokenizer.get_chat_template()):
        turns = _marked(case)
    else:
        turns = {index: [_to_end_token(case, _by_prefix(case, index))] for index in case.learned}
    for index, spans in turns.items():
        _check_said(case, index, "".join(text[start:end] for start, end in spans))
    return list(turns.values())


@dataclass(frozen=True)
class _Case:
    """One conversation, and renderings of its parts."""

    tokenizer: PreTrainedTokenizerBase
    record: Record
    text: str

    @property
    def messages(self) -> Messages:
        return self.record.messages

    @property
    def turns(self) -> list[int]:
        """Where the assistant speaks."""
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    @property
    def learned(self) -> list[int]:
        return [index for index in self.turns if self.messages[index].get("weight", 1) != 0]

    def render(self, messages: Messages, *, generation_prompt: bool = False) -> str:
        return render(self.tokenizer, messages, self.record.tools, generation_prompt=generation_prompt)

    def marked(self, messages: Messages) -> tuple[str, list[Span]]:
        return render_marked(self.tokenizer, messages, self.record.tools)

    def prompt(self, index: int) -> str:
        """What a server is asked for the turn at `index`."""
        if index == 0:
            raise self.refusal(
                "begins with the assistant's turn, which no server can be asked for; put a user's turn "
                "before it, or give it weight 0"
            )
        return self.render(self.messages[:index], generation_prompt=True)

    def refusal(self, problem: str) -> BadInput:
        return BadInput(f"{self.record.source}: {problem}")

    def unclear(self) -> BadInput:
        return self.refusal(
            "the base's chat template rewrites earlier turns, so the assistant's words "
            "cannot be told apart; split the conversation into one record a turn"
        )


# -- marks -----------------------------------------------------------------------------------------


def _marked(case: _Case) -> dict[int, list[Span]]:
    """Each turn's marked parts, and its end token if the marks leave it out: a model must learn to stop."""
    _, marks = case.marked(case.messages)
    turns, before = {}, 0
    for index in case.turns:
        through, so_far = case.marked(case.messages[: index + 1])
        spans = marks[before : len(so_far)]
        if not spans:
            raise case.refusal(
                f"the chat template does not mark messages[{index}] for training, but others; set "
                "model.chat_template to one that marks every answer, or none"
            )
        turns[index] = [*spans[:-1], _with_end_token(case, spans[-1], through[so_far[-1][1] :])]
        before = len(so_far)
    return {index: turns[index] for index in case.learned}


# -- prefixes --------------------------------------------------------------------------------------


def _by_prefix(case: _Case, index: int) -> Span:
    prompt = case.prompt(index)
    # What a template puts after the last turn need not stand after an earlier one.
    through = case.render(case.messages[: index + 1]).rstrip()
    if case.text.startswith(through) and through.startswith(prompt):
        return len(prompt), len(through)
    return _by_difference(case, index, prompt)


# -- differences -----------------------------------------------------------------------------------


def _by_difference(case: _Case, index: int, prompt: str) -> Span:
    """From where the turn's own words stand in the whole, back to the prompt and on to the end token."""
    marker = "marker"
    while marker in case.text:
        marker += "s"
    replaced = _replaced(case.messages[index], marker)
    start, end = _place(
        case, index, case.render([*case.messages[:index], replaced, *case.messages[index + 1 :]]), marker
    )
    before, _, after = case.render([*case.messages[:index], replaced]).partition(marker)
    after = after.rstrip()
    if not case.text.startswith(after, end):
        raise case.unclear()
    return start - _lead(case, index, prompt, before, start), end + len(after)


def _place(case: _Case, index: int, other: str, marker: str) -> Span:
    """Where the message's content stands, or the name of its first tool call if it has no content.

    `other` is the whole with the marker in its place.
    """
    before, _, after = other.partition(marker)
    start, end = len(before), len(case.text) - len(after)
    surrounded = case.text.startswith(before) and case.text.endswith(after) and start <= end
    forms = [form.strip() for form in _forms(_words(case.messages[index]))]
    if not surrounded or case.text[start:end].strip() not in forms:
        raise case.unclear()
    return start, end


def _lead(case: _Case, index: int, prompt: str, alone: str, start: int) -> int:
    """Length of what the template lets the assistant say before its words: a space, the mark of a call.

    `alone` is the turn's beginning with nothing after it; there a template may put more, such as an empty
    block of thinking, which is then cut off up to what the generation prompt adds.
    """
    if not alone.startswith(prompt):
        return 0
    lead = alone[len(prompt) :]
    earlier = case.text[:start]
    if earlier.endswith(lead):
        return len(lead)
    without = case.render(case.messages[:index])
    header = prompt.removeprefix(without) if prompt.startswith(without) else ""
    for cut in range(1, len(lead) + 1):
        if header and earlier.endswith(header + lead[cut:]):
            return len(lead) - cut
    raise case.unclear()


def _replaced(message: Message, marker: str) -> Message:
    """The message with a marker in the place of `_words`."""
    if message["content"].strip() or not message.get("tool_calls"):
        return {**message, "content": marker}
    first, *others = message["tool_calls"]
    return {**message, "tool_calls": [{**first, "function": {**first["function"], "name": marker}}, *others]}


def _words(message: Message) -> str:
    if message["content"].strip() or not message.get("tool_calls"):
        return str(message["content"])
    return str(message["tool_calls"][0]["function"]["name"])


# -- the end token ---------------------------------------------------------------------------------


def _with_end_token(case: _Case, span: Span, after: str) -> Span:
    """And with the end token if the span has none. `after` is what follows the turn if it is the last."""
    start, end = span
    tokens = _added_tokens(case.tokenizer)
    said = case.text[start:end].rstrip()
    found = tokens.search(after)
    if found is None or any(token.end() == len(said) for token in tokens.finditer(said)):
        return span
    rest = after[: found.end()]
    return start, end + len(rest) if case.text.startswith(rest, end) else end


def _to_end_token(case: _Case, span: Span) -> Span:
    """Without what a template puts after the end token, such as a rule between turns: no model says it."""
    start, end = span
    tokens = list(_added_tokens(case.tokenizer).finditer(case.text, start, end))
    return start, tokens[-1].end() if tokens else end


@lru_cache(maxsize=8)
def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds the texts that are always tokens of their own; a tokenizer may have thousands of them."""
    texts = sorted((str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


# -- proof -----------------------------------------------------------------------------------------


def _check_tools(case: _Case) -> None:
    if case.record.tools and render(case.tokenizer, case.messages) == case.text:
        raise case.refusal(
            "the chat template does not write its tools; choose a base that calls tools, or set "
            "model.chat_template to a template that writes them"
        )


def _check_said(case: _Case, index: int, said: str) -> None:
    if not _is_whole(case.messages[index], said):
        raise case.refusal(
            f"the chat template does not write messages[{index}] in full, so the model would learn something "
            "else; change the message, or set model.chat_template to a template that writes it"
        )


def _is_whole(message: Message, said: str) -> bool:
    names = [call["function"]["name"] for call in message.get("tool_calls") or []]
    words = any(_squeezed(form) in _squeezed(said) for form in _forms(message["content"]))
    return words and all(name in said for name in names)


def _forms(words: str) -> list[str]:
    """The words, and what is left of them without the thinking."""
    return [words, _END_OF_THINKING.split(words)[-1]]


def _squeezed(text: str) -> str:
    """Templates trim, and put line breaks around what they take apart."""
    return "".join(text.split())
