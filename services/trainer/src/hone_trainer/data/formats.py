"""The forms in which people keep examples, told apart record by record.

| form | keys |
|---|---|
| OpenAI | messages, tools |
| ShareGPT | conversations of from and value |
| Alpaca | instruction, input, output |
| pairs | prompt and completion, instruction and response, input and output |
| text | text |
| preference pairs | input, preferred_output, non_preferred_output; or prompt, chosen, rejected |
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hone_trainer.data.columns import fill, map_columns, parts, places
from hone_trainer.data.html_text import plain
from hone_trainer.data.messages import check_order, check_text, check_value, read_messages, shown
from hone_trainer.data.rejection import Rejected, named
from hone_trainer.data.sharegpt import read_conversation
from hone_trainer.record import Message, Messages


@dataclass(frozen=True)
class How:
    """How a source's rows become records, beyond what each row says itself."""

    columns: dict[str, str]
    system: str | None
    join: str
    format: str | None
    html: bool = False


@dataclass
class Draft:
    """A record before it is cleaned, without its place."""

    messages: Messages
    form: str = ""
    tools: list[dict[str, Any]] | None = None
    text: str | None = None
    trained: list[list[int]] | None = None
    chosen: Messages | None = None
    rejected: Messages | None = None


Fields = dict[str, Any]


def read_record(row: Any, how: How, unused: set[str]) -> Draft:
    """A row's record. Top-level keys without a meaning are added to `unused`.

    Raises Rejected for a row that is no record, or not a whole one.
    """
    if isinstance(row, Rejected):
        raise row
    if not isinstance(row, dict):
        more = "; a list of records belongs into a .json" if isinstance(row, list) else ""
        raise Rejected("not_an_object", f"is no JSON object; a record is {{…}} with named fields{more}")
    try:
        fields = _fields(row, how)
        every = (plain(row) if how.html and how.format else row) | fields
    except RecursionError:
        raise Rejected("too_deep", "is nested too deeply to be a record") from None
    draft = _formatted(every, how.format, unused) if how.format else _read(fields, how, unused)
    if _is_empty_system(draft.messages[0]) and len(draft.messages) > 1:
        del draft.messages[0]
    if how.system is not None and draft.text is None and draft.messages[0]["role"] != "system":
        draft.messages.insert(0, _said("system", how.system))
    _check_orders(draft)
    return draft


def _is_empty_system(message: Message) -> bool:
    """Many datasets have one in every conversation, and leave it empty where there is none."""
    return message["role"] == "system" and not message["content"].strip()


def _fields(row: Fields, how: How) -> Fields:
    """What the record is read from. A row may hold much HTML that no column asks for."""
    if how.columns:
        return map_columns(how.columns, row, plain) if how.html else map_columns(how.columns, row)
    return plain(row) if how.html else row


def _read(fields: Fields, how: How, unused: set[str]) -> Draft:
    # Tables have every column in every row: a form whose fields are empty is another one's row.
    filled = [form for form in _FORMS if all(fields.get(key) is not None for key in form[0])]
    for keys, form, read in filled or _FORMS:
        if all(key in fields for key in keys):
            draft = read(_Reading(fields, how, unused))
            draft.form = form
            if form == "text":
                unused.update(fields.keys() - set(keys))
            else:
                _complete(draft, fields)
                unused.update(fields.keys() - set(keys) - _OPTIONAL - _ALSO.get(form, set()))
            return draft
    raise Rejected(
        "unknown_format",
        f"is in no known form: it has {named(fields) or 'no fields'}; write "
        '{"messages": [{"role": …, "content": …}]}, or say with data.columns what the fields are',
    )


def _complete(draft: Draft, fields: Fields) -> None:
    """What stands beside a conversation in any form."""
    if draft.tools is None:
        draft.tools = _tools(fields)
    if fields.get("system") and draft.messages[0]["role"] != "system":
        draft.messages.insert(0, _said("system", _string(fields, "system")))


def _check_orders(draft: Draft) -> None:
    if draft.form == "text":
        return
    check_order(draft.messages, answered=draft.chosen is None)
    for answer in (draft.chosen, draft.rejected):
        if answer is not None:
            check_order(draft.messages + answer)


@dataclass(frozen=True)
class _Reading:
    """One row, in whichever form it is."""

    fields: Fields
    how: How
    unused: set[str]

    def openai(self) -> Draft:
        if self.fields.get("functions"):
            raise Rejected("wrong_type", "functions is no longer OpenAI's form; write tools")
        return Draft(self._messages("messages"))

    def sharegpt(self) -> Draft:
        return Draft(read_conversation(self.fields["conversations"], self.unused))

    def pair(self, question: str, answer: str) -> Draft:
        if isinstance(self.fields[question], list):
            # TRL's conversational form: both are lists of messages.
            return Draft(self._messages(question) + self._answer(answer))
        return self._exchange(self._string(question), answer)

    def alpaca(self, answer: str) -> Draft:
        prompt = self._string("instruction")
        if self.fields.get("input"):
            more = self._string("input")
            if not more.isspace():
                prompt = fill(self.how.join, {"instruction": prompt, "input": more})
        return self._exchange(prompt, answer)

    def text(self) -> Draft:
        text = self._string("text")
        return Draft([_said("assistant", text)], text=text, trained=[[0, len(text)]])

    def preference(self) -> Draft:
        """TRL's: https://huggingface.co/docs/trl/dataset_formats."""
        chosen, rejected = self._answer("chosen"), self._answer("rejected")
        if "prompt" not in self.fields:
            messages = chosen[:-1]
            if not messages or messages != rejected[:-1]:
                raise Rejected(
                    "wrong_type", "chosen and rejected do not begin with the same prompt; add prompt"
                )
        elif isinstance(self.fields["prompt"], str):
            messages = [_said("user", self._string("prompt"))]
        else:
            messages = self._messages("prompt")
        # Some write the whole conversation into both answers.
        chosen, rejected = (
            each[len(messages) :] if each[: len(messages)] == messages else each
            for each in (chosen, rejected)
        )
        return Draft(messages, chosen=chosen, rejected=rejected)

    def openai_preference(self, better: str, worse: str) -> Draft:
        asked = self.fields["input"]
        if not isinstance(asked, dict) or "messages" not in asked:
            raise Rejected("wrong_type", "input has no messages")
        return Draft(
            read_messages(asked["messages"], self.unused),
            tools=_tools(asked),
            chosen=self._messages(better),
            rejected=self._messages(worse),
        )

    def _exchange(self, asked: str, answer: str) -> Draft:
        return Draft([_said("user", asked), _said("assistant", self._string(answer))])

    def _messages(self, name: str) -> Messages:
        return read_messages(self.fields[name], self.unused)

    def _answer(self, name: str) -> Messages:
        if isinstance(self.fields[name], str):
            return [_said("assistant", self._string(name))]
        return self._messages(name)

    def _string(self, name: str) -> str:
        return _string(self.fields, name)


def _string(fields: Fields, name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise Rejected("wrong_type", f"{name} is no text, but {shown(value)}")
    check_text(name, value)
    return value


def _formatted(fields: Fields, template: str, unused: set[str]) -> Draft:
    """Written as the user's format says: learned is its last field, and what stands after it."""
    if not places(template):
        raise Rejected("format", "data.format has no field, such as {response}")
    filled = parts(template, fields)
    at = max(index for index, (_, place) in enumerate(filled) if place is not None)
    texts = [text for text, _ in filled]
    if not texts[at].strip():
        raise Rejected("empty", f"the field {filled[at][1]!r} is empty: there is no answer to learn")
    before, text = "".join(texts[:at]), "".join(texts)
    if not before.strip():
        raise Rejected("format", "data.format begins with the answer; write what is asked before it")
    check_text("the formatted record", text)
    unused.update(fields.keys() - {re.split(r"[.\[]", place)[0] for place in places(template)})
    messages = [_said("user", before), _said("assistant", texts[at])]
    return Draft(messages, "format", text=text, trained=[[len(before), len(text)]])


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _tools(fields: Fields) -> list[dict[str, Any]] | None:
    tools = fields.get("tools")
    if not tools:
        return None
    if not isinstance(tools, list) or not all(_is_function(tool) for tool in tools):
        raise Rejected("wrong_type", 'tools is no list of {"type": "function", "function": {"name": …}}')
    check_value("tools", tools)
    return tools


def _is_function(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _pair(question: str, answer: str) -> tuple[tuple[str, ...], str, Callable[[_Reading], Draft]]:
    read = partial(_Reading.pair, question=question, answer=answer)
    return (question, answer), f"{question}/{answer}", read


def _openai_preference(better: str, worse: str) -> tuple[tuple[str, ...], str, Callable[[_Reading], Draft]]:
    read = partial(_Reading.openai_preference, better=better, worse=worse)
    return ("input", better, worse), "preference", read


# In this order: a record that would be two forms is the first of them.
_FORMS: list[tuple[tuple[str, ...], str, Callable[[_Reading], Draft]]] = [
    (("messages",), "messages", _Reading.openai),
    (("conversations",), "sharegpt", _Reading.sharegpt),
    # The API's name and the older one of its specification.
    _openai_preference("preferred_output", "non_preferred_output"),
    _openai_preference("preferred_completion", "non_preferred_completion"),
    (("chosen", "rejected"), "preference", _Reading.preference),
    (("instruction", "output"), "alpaca", partial(_Reading.alpaca, answer="output")),
    (("instruction", "response"), "instruction/response", partial(_Reading.alpaca, answer="response")),
    _pair("prompt", "completion"),
    _pair("prompt", "response"),
    _pair("input", "output"),
    (("text",), "text", _Reading.text),
]
_OPTIONAL = {"tools", "system", "parallel_tool_calls"}
_ALSO = {"alpaca": {"input"}, "instruction/response": {"input"}, "preference": {"prompt"}}
