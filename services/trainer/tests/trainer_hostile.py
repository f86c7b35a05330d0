"""Hostile data, each with the verdict that it must get.

Three kinds: a bad row among good ones, a file in which all that can be taken is, and a file or path
that is refused as a whole. Binary and large inputs are made here, so that no editor mends them.
"""

import codecs
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

NAME = "data.jsonl"
USER = {"role": "user", "content": "Hi?"}
ANSWER = {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be kind."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "found"}


def good(number: int) -> str:
    """A line that nothing is wrong with; each number is another record."""
    asked, answered = {**USER, "content": f"Question {number}?"}, {**ANSWER, "content": f"Answer {number}."}
    return json.dumps({"messages": [asked, answered]})


def lines(*texts: str) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


GOOD = good(0)


# -- bad rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadRow:
    """One line of a JSONL file: the reason in rejected.jsonl, and words of the message."""

    name: str
    line: str
    reason: str
    told: str

    def __str__(self) -> str:
        return self.name


def bad_rows() -> list[BadRow]:
    every = [*_not_json(), *_no_records(), *_messages(), *_orders(), *_tools(), *_sharegpt(), *_pairs()]
    return [*every, *_texts(), *_preferences()]


def _row(name: str, value: Any, reason: str, told: str) -> BadRow:
    return BadRow(name, json.dumps(value), reason, told)


def _said(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def _not_json() -> Iterator[BadRow]:
    on_one_line = "a record stands on one line: join its lines, or rename the file to .json"
    yield BadRow("a brace", "{", "not_json", on_one_line)
    yield BadRow("half a record", GOOD[: len(GOOD) // 2], "not_json", "not JSON at column")
    yield BadRow(
        "a comma too many", '{"prompt": "a", "completion": "b",}', "not_json", "not JSON at column 35"
    )
    yield BadRow("single quotes", "{'prompt': 'a'}", "not_json", "not JSON at column 2")
    yield BadRow("two records on a line", f"{GOOD} {GOOD}", "not_json", "Extra data")
    yield BadRow("words", "Hello there", "not_json", "not JSON at column 1: Expecting value")
    yield BadRow("a comment", "// the greetings", "not_json", "not JSON at column 1: Expecting value")
    yield BadRow("a tab in a text", '{"text": "a\tb"}', "not_json", "Invalid control character")
    yield BadRow("a NUL byte", '{"text": "a\0b"}', "not_json", "Invalid control character")
    yield BadRow("NUL bytes alone", "\0\0\0\0", "not_json", "not JSON at column 1")
    yield BadRow("an unknown escape", r'{"text": "C:\dir"}', "not_json", "Invalid \\escape")
    yield BadRow("half an escape", r'{"text": "\u12"}', "not_json", "Invalid \\uXXXX escape")
    yield BadRow("NaN", '{"text": "a", "score": NaN}', "not_json", "has NaN, which is no JSON")
    yield BadRow("Infinity", '{"text": "a", "score": Infinity}', "not_json", "has Infinity")
    yield BadRow("-Infinity", '{"text": "a", "score": -Infinity}', "not_json", "has -Infinity")
    yield BadRow("a huge integer", f'{{"text": "a", "n": {"9" * 5000}}}', "not_json", "thousands of digits")
    yield BadRow("a key twice", '{"text": "a", "text": "b"}', "duplicate_key", "has the key 'text' twice")
    twice = '{"messages": [{"role": "user", "role": "user", "content": "a"}]}'
    yield BadRow("a key twice inside", twice, "duplicate_key", "has the key 'role' twice; keep one")
    many = ", ".join(f'"k{number}": 1' for number in range(20_000))
    yield BadRow("a key twice among many", f'{{{many}, "k9": 2}}', "duplicate_key", "has the key 'k9' twice")
    yield BadRow("deep lists", "[" * 100_000, "too_deep", "is nested too deeply")
    yield BadRow("deep objects", '{"a": ' * 50_000, "too_deep", "is nested too deeply")


def _no_records() -> Iterator[BadRow]:
    no_object = "is no JSON object; a record is {…} with named fields"
    yield _row("a list", ["a"], "not_an_object", no_object)
    yield BadRow("a list of records", f"[{GOOD}]", "not_an_object", "a list of records belongs into a .json")
    for value in ("text", 5, 1.5, None, True):
        yield _row(f"the value {value!r}", value, "not_an_object", no_object)
    yield _row("no fields", {}, "unknown_format", "is in no known form: it has no fields")
    yield _row("numbers as keys", {1: "a", 2: "b"}, "unknown_format", "it has 1, 2; write")
    yield _row(
        "other fields", {"question": "a"}, "unknown_format", "or say with data.columns what the fields are"
    )
    many = dict.fromkeys(map(str, range(30_000)), 1)
    yield _row("very many keys", many, "unknown_format", "0, 1, 2, 3, 4, 5, 6, 7, … and 29992 more; write")
    yield _row("a very long key", {"k" * 200_000: 1}, "unknown_format", "k" * 40 + "…; write")
    yield _row("a terminal's command as a key", {"\x1b[2J": 1}, "unknown_format", r"it has \x1b[2J; write")
    yield _row("half a character as a key", {"\ud83d": 1}, "unknown_format", r"it has \ud83d; write")
    yield _row("line breaks in a key", {"a\nb\u2028": 1}, "unknown_format", r"it has a\nb\u2028; write")


def _messages() -> Iterator[BadRow]:
    no_list = "messages is no list of messages, or an empty one"
    for value in (None, "Hi?", 5, USER, []):
        yield _row(f"messages are {value!r}", {"messages": value}, "wrong_type", no_list)
    for value in ("Hi?", None, 5, ["user", "Hi?"]):
        row = _said(value, ANSWER)
        yield _row(
            f"a message is {value!r}", row, "wrong_type", "messages[0] is no object with role and content"
        )
    known = "known are system, developer, user, assistant, tool"
    for role in (None, 5, ["user"], {"a": 1}, "human", "User", "function", "r" * 100_000):
        row = _said({"role": role, "content": "Hi?"}, ANSWER)
        yield _row(f"a role is {str(role)[:9]}", row, "unknown_role", known)
    yield _row("no role", _said({"content": "Hi?"}, ANSWER), "unknown_role", "messages[0].role is null")
    yield _row("no content", _said({"role": "user"}, ANSWER), "wrong_type", "messages[0].content is no text")
    for value in (None, 5, True, {"text": "Hi?"}):
        row = _said({"role": "user", "content": value}, ANSWER)
        yield _row(f"a content is {value!r}", row, "wrong_type", "messages[0].content is no text, but")
    parts = [
        ("a picture", {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
        ("sound", {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        ("a part without text", {"type": "text"}),
        ("a part's text that is a number", {"type": "text", "text": 5}),
        ("a part without a type", {"text": "Hi?"}),
        ("a string as a part", "Hi?"),
    ]
    for name, part in parts:
        row = _said({"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}, ANSWER)
        yield _row(name, row, "wrong_type", "messages[0].content has a part that is no text")
    deep = _deep('{"messages": [{"role": "user", "content": ', 900, "}]}")
    yield BadRow("a deep content", deep, "wrong_type", "messages[0].content has a part that is no text: [[[")
    yield _row(
        "no parts", _said({"role": "user", "content": []}, ANSWER), "empty", "messages[0].content is empty"
    )
    named = _said({**USER, "name": 5}, ANSWER)
    yield _row("a name that is a number", named, "wrong_type", "messages[0].name is no text, but 5")
    for weight in (2, True, "1", -1, 0.5, [1]):
        row = _said(USER, {**ANSWER, "weight": weight})
        yield _row(f"the weight {weight!r}", row, "wrong_type", "it may be 0 or 1")


def _deep(before: str, levels: int, after: str) -> str:
    """Deep, but not so deep that the JSON cannot be read."""
    return before + "[" * levels + "]" * levels + after


def _orders() -> Iterator[BadRow]:
    turns = "user and assistant must take turns, user first"
    no_answer = "must end with an assistant message: there is no answer to learn"
    first = "a system message may only come first"
    for name, messages, reason, told in (
        ("no answer", [USER], "no_answer", no_answer),
        ("nothing but a system prompt", [SYSTEM], "no_answer", no_answer),
        ("no answer at the end", [USER, ANSWER, USER], "no_answer", no_answer),
        ("the answer first", [ANSWER], "role_order", turns),
        ("two users in a row", [USER, USER, ANSWER], "role_order", f"messages[1] is the user's; {turns}"),
        (
            "two answers in a row",
            [USER, ANSWER, ANSWER],
            "role_order",
            f"messages[2] is the assistant's; {turns}",
        ),
        ("the system in the middle", [USER, SYSTEM, ANSWER], "role_order", f"messages[1]: {first}"),
        ("two systems", [SYSTEM, SYSTEM, USER, ANSWER], "role_order", f"messages[1]: {first}"),
        (
            "an empty answer",
            [USER, {**ANSWER, "content": ""}],
            "empty",
            "messages[1].content is empty (assistant)",
        ),
        (
            "an answer of white space",
            [USER, {**ANSWER, "content": " \n\t\u3000"}],
            "empty",
            "messages[1].content",
        ),
        (
            "an empty question",
            [{**USER, "content": ""}, ANSWER],
            "empty",
            "messages[0].content is empty (user)",
        ),
        ("all weights 0", [USER, {**ANSWER, "weight": 0}], "no_answer", "every answer has weight 0"),
        ("a result without a call", [USER, RESULT, ANSWER], "tool_order", "a tool's result without a call"),
        (
            "a call without a result",
            [USER, CALL, USER, ANSWER],
            "tool_order",
            'before the result of call "a"',
        ),
        (
            "a result twice",
            [USER, CALL, RESULT, RESULT, ANSWER],
            "tool_order",
            "messages[3]: a tool's result without",
        ),
        ("a result at the end", [USER, CALL, RESULT], "no_answer", no_answer),
    ):
        yield _row(name, _said(*messages), reason, told)
    other = _said(USER, CALL, {**RESULT, "tool_call_id": "b"}, ANSWER)
    yield _row("another call's result", other, "tool_order", 'messages[2] answers "b", which was not called')


def _tools() -> Iterator[BadRow]:
    no_id = _said(USER, CALL, {"role": "tool", "content": "found"}, ANSWER)
    yield _row("a result without an id", no_id, "tool_order", "messages[2].tool_call_id is missing")
    numbered = _said(USER, CALL, {**RESULT, "tool_call_id": 5}, ANSWER)
    yield _row(
        "a result's id that is a number", numbered, "tool_order", "messages[2].tool_call_id is missing"
    )
    by_user = _said({**USER, "tool_calls": CALL["tool_calls"]}, ANSWER)
    yield _row("a call by the user", by_user, "tool_order", "messages[0]: only the assistant may call tools")
    old = _said(USER, {**ANSWER, "content": None, "function_call": {"name": "look", "arguments": "{}"}})
    yield _row(
        "function_call",
        old,
        "wrong_type",
        "messages[1].function_call is no longer OpenAI's form; write tool_calls",
    )
    functions = _said(USER, ANSWER, functions=[{"name": "look"}])
    yield _row("functions", functions, "wrong_type", "functions is no longer OpenAI's form; write tools")
    function = {"name": "look", "arguments": "{}"}
    for name, calls, reason, told in (
        ("calls that are no list", {"id": "a"}, "wrong_type", "messages[1].tool_calls is no list"),
        ("a call that is a string", ["look"], "wrong_type", "messages[1].tool_calls[0] names no function"),
        ("a call without a function", [{"id": "a"}], "wrong_type", "names no function"),
        ("a function named 5", [{"id": "a", "function": {"name": 5}}], "wrong_type", "names no function"),
        (
            "a call without an id",
            [{"function": function}],
            "wrong_type",
            "id is missing, so no result can answer it",
        ),
        ("one id twice", [{"id": "a", "function": function}] * 2, "tool_order", "has one id twice"),
        (
            "half a character in an id",
            [{"id": "\ud83d", "function": function}],
            "lone_surrogate",
            "tool_calls[0].id has",
        ),
    ):
        yield _row(name, _said(USER, {**ANSWER, "tool_calls": calls}), reason, told)
    for name, arguments, reason in (
        ("arguments that are a list", [1], "wrong_type"),
        ("arguments that are no JSON", "look", "wrong_type"),
        ("arguments that are a JSON list", "[1]", "wrong_type"),
        ("arguments with NaN", '{"a": NaN}', "wrong_type"),
        ("arguments with a number beyond all", '{"a": 1e999}', "wrong_type"),
        ("arguments too deep to read", "[" * 100_000, "wrong_type"),
        ("deep arguments", '{"a": ' + "[" * 100 + "]" * 100 + "}", "too_deep"),
        ("half a character in arguments", {"a": "\ud83d"}, "lone_surrogate"),
        ("half a character as an argument's name", {"\ud83d": "a"}, "lone_surrogate"),
    ):
        calls = [{"id": "a", "function": {"name": "look", "arguments": arguments}}]
        row = _said(USER, {**ANSWER, "tool_calls": calls})
        yield _row(name, row, reason, "messages[1].tool_calls[0].function.arguments")
    no_list = 'tools is no list of {"type": "function", "function": {"name": …}}'
    for tools in ("[]", {"name": "look"}, ["look"], [{"type": "function"}], [{"function": {"name": 5}}], 5):
        yield _row(f"the tools {tools!r}", _said(USER, ANSWER, tools=tools), "wrong_type", no_list)
    parameters = [
        ("deep", "[" * 300 + "]" * 300, "too_deep", "tools is nested more than 64 levels deep"),
        ("huge", "1e999", "wrong_type", "tools has inf, which is no JSON"),
        ("halved", r'"\ud83d"', "lone_surrogate", "tools has half of a character"),
        ("halved key", r'{"\ud83d": 1}', "lone_surrogate", "tools has half of a character"),
    ]
    for name, value, reason, told in parameters:
        tools = f'[{{"type": "function", "function": {{"name": "look", "parameters": {value}}}}}]'
        yield BadRow(f"tools with {name} parameters", f'{GOOD[:-1]}, "tools": {tools}}}', reason, told)


def _sharegpt() -> Iterator[BadRow]:
    human, gpt = {"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}
    no_list = "conversations is no list of turns, or an empty one"
    for value in (None, "Hi?", {}, []):
        yield _row(f"conversations are {value!r}", {"conversations": value}, "wrong_type", no_list)
    no_turn = "conversations[0] has no from and value, or its value is no text"
    for turn in (
        "Hi?",
        None,
        {"from": "human"},
        {"from": "human", "value": 5},
        {"from": "human", "value": None},
    ):
        yield _row(f"the turn {turn!r}", {"conversations": [turn, gpt]}, "wrong_type", no_turn)
    for speaker in (None, 5, ["human"], {"a": 1}, "bot", "s" * 100_000):
        row = {"conversations": [{"from": speaker, "value": "Hi?"}, gpt]}
        yield _row(
            f"a turn from {str(speaker)[:9]}", row, "unknown_role", "known are system, human, user, gpt"
        )
    for value in ("look()", "[1]", '{"arguments": {}}', "[" * 100_000):
        turns = [human, {"from": "function_call", "value": value}, gpt]
        yield _row(
            f"the function call {value[:9]}",
            {"conversations": turns},
            "wrong_type",
            "conversations[1]: the function call",
        )
    number = [human, {"from": "function_call", "value": '{"name": 5}'}, gpt]
    yield _row("a function call named 5", {"conversations": number}, "wrong_type", "names no function")
    observed = [human, {"from": "observation", "value": "found"}, gpt]
    yield _row(
        "an observation without a call", {"conversations": observed}, "tool_order", "without a call before it"
    )
    heavy = [human, {**gpt, "weight": 2}]
    yield _row("a turn of weight 2", {"conversations": heavy}, "wrong_type", "weight is 2; it may be 0 or 1")
    yield _row("a conversation without an answer", {"conversations": [human]}, "no_answer", "must end with")
    yield _row(
        "a turn of white space",
        {"conversations": [human, {**gpt, "value": " "}]},
        "empty",
        "is empty (assistant)",
    )


def _pairs() -> Iterator[BadRow]:
    forms = [("instruction", "output"), ("instruction", "response"), ("prompt", "completion")]
    forms += [("prompt", "response"), ("input", "output")]
    for asked, answered in forms:
        for value in (None, 5, True, {"a": 1}):
            row = {asked: value, answered: "Hello."}
            yield _row(f"{asked} {value!r} with {answered}", row, "wrong_type", f"{asked} is no text, but")
        for value in (None, 5, True, {"a": 1}):
            row = {asked: "Hi?", answered: value}
            told = f"{answered} is no text, but" if value is not None or asked else ""
            yield _row(f"{answered} {value!r} to {asked}", row, "wrong_type", told)
        yield _row(
            f"an empty {answered} to {asked}", {asked: "Hi?", answered: ""}, "empty", "is empty (assistant)"
        )
        yield _row(
            f"an empty {asked} with {answered}", {asked: " ", answered: "a"}, "empty", "is empty (user)"
        )
        yield _row(f"{asked} without {answered}", {asked: "Hi?"}, "unknown_format", f"it has {asked}; write")
    more = {"instruction": "Sum up.", "input": 5, "output": "Done."}
    yield _row("an input that is a number", more, "wrong_type", "input is no text, but 5")
    prompted = {"prompt": "Hi?", "completion": "Hello.", "system": ["Be kind."]}
    yield _row("a system prompt that is a list", prompted, "wrong_type", "system is no text")
    listed = {"prompt": [USER], "completion": 5}
    yield _row("messages and a number", listed, "wrong_type", "messages is no list")
    yield _row(
        "lists of the wrong order", {"prompt": [ANSWER], "completion": [ANSWER]}, "role_order", "take turns"
    )


def _texts() -> Iterator[BadRow]:
    for value in (None, 5, ["a"], {"a": "b"}):
        yield _row(f"the text {value!r}", {"text": value}, "wrong_type", "text is no text, but")
    yield _row("an empty text", {"text": ""}, "empty", "text is empty")
    yield _row("a text of white space", {"text": " \n"}, "empty", "text is empty")
    for name, text, reason, told in (
        ("an escaped NUL", "a\0b", "control_character", "has the control character U+0000; remove it"),
        ("a bell", "a\x07b", "control_character", "U+0007"),
        ("an escape sequence", "\x1b[31mred", "control_character", "U+001B"),
        ("a delete", "a\x7fb", "control_character", "U+007F"),
        ("the first half of a character", "a\ud83d", "lone_surrogate", r"(a lone surrogate, \ud83d)"),
        ("the second half of a character", "\ude00a", "lone_surrogate", r"(a lone surrogate, \ude00)"),
    ):
        yield _row(f"{name} in a text", {"text": text}, reason, told)
        row = _said(USER, {**ANSWER, "content": text})
        yield _row(f"{name} in an answer", row, reason, "messages[1].content has")
    row = _said({**USER, "name": "\ud83d"}, ANSWER)
    yield _row(
        "half a character in a name", row, "lone_surrogate", "messages[0].name has half of a character"
    )


def _preferences() -> Iterator[BadRow]:
    yield _row(
        "no rejected answer",
        {"prompt": "Hi?", "chosen": "a"},
        "unknown_format",
        "it has prompt, chosen; write",
    )
    yield _row(
        "no chosen answer",
        {"prompt": "Hi?", "rejected": "a"},
        "unknown_format",
        "it has prompt, rejected; write",
    )
    for key in ("prompt", "chosen", "rejected"):
        for value in (None, 5, {"a": 1}, []):
            row = {"prompt": "Hi?", "chosen": "a", "rejected": "b", key: value}
            yield _row(
                f"a pair's {key} {value!r}", row, "wrong_type", "is no list of messages, or an empty one"
            )
    for key in ("chosen", "rejected"):
        row = {"prompt": "Hi?", "chosen": "a", "rejected": "b", key: " "}
        yield _row(f"a pair's empty {key}", row, "empty", f"{key}[0].content is empty (assistant)")
    apart = {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "Ho?"}, ANSWER]}
    yield _row("a pair of two prompts", apart, "wrong_type", "do not begin with the same prompt; add prompt")
    yield _row("a pair without a prompt", {"chosen": "a", "rejected": "b"}, "wrong_type", "add prompt")
    asked = {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**USER, "content": "Ho?"}]}
    yield _row("a question in place of an answer", asked, "role_order", "take turns")
    answered = {"prompt": [USER, ANSWER], "chosen": "a", "rejected": "b"}
    yield _row("a prompt that is answered", answered, "role_order", "must end with the user's turn")
    whole = {"prompt": [USER], "chosen": [USER], "rejected": [USER, ANSWER]}
    yield _row("a pair whose answer is the prompt", whole, "no_answer", "must end with an assistant message")
    pair = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}
    yield _row(
        "a pair's input that is a string", {**pair, "input": "Hi?"}, "wrong_type", "input has no messages"
    )
    yield _row(
        "a pair's input without messages", {**pair, "input": {}}, "wrong_type", "input has no messages"
    )
    yield _row(
        "a pair's output that is no list",
        {**pair, "preferred_output": 5},
        "wrong_type",
        "is no list of messages",
    )
    alone = {key: pair[key] for key in ("input", "preferred_output")}
    yield _row(
        "no output that is not preferred", alone, "unknown_format", "it has input, preferred_output; write"
    )
    tools = {**pair, "input": {"messages": [USER], "tools": "look"}}
    yield _row("a pair's tools that are no list", tools, "wrong_type", "tools is no list")


# -- whole files -----------------------------------------------------------------------------------

Make = Callable[[Path], None]
"""Writes files into a folder."""


@dataclass(frozen=True)
class Taken:
    """Files of which all that can be taken is."""

    name: str
    content: bytes | Make
    count: int
    """Records that are taken."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Bad rows, place and reason."""
    train: str | list[str] = NAME

    def __str__(self) -> str:
        return self.name

    def make(self, folder: Path) -> None:
        _make(self.content, self.train, folder)


@dataclass(frozen=True)
class Refused:
    """Files or paths that are refused, with the exit code and words of the message."""

    name: str
    content: bytes | Make
    code: int
    told: str
    train: str | list[str] = NAME

    def __str__(self) -> str:
        return self.name

    def make(self, folder: Path) -> None:
        _make(self.content, self.train, folder)


def _make(content: bytes | Make, train: str | list[str], folder: Path) -> None:
    if isinstance(content, bytes):
        assert isinstance(train, str)
        (folder / train).parent.mkdir(parents=True, exist_ok=True)
        (folder / train).write_bytes(content)
    else:
        content(folder)


def _files(**contents: bytes) -> Make:
    """Files by name, in which `__` stands for a slash and `_` for a dot."""

    def make(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return make


def _also(make: Make, more: Make) -> Make:
    def both(folder: Path) -> None:
        make(folder)
        more(folder)

    return both


def zstd(content: bytes) -> bytes:
    packed: bytes = pyarrow.compress(content, codec="zstd", asbytes=True)
    return packed


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def _no_utf8() -> pyarrow.Array:
    """Two texts, of which the first is none: whoever wrote the file did not look."""
    offsets = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\6\0\0\0")
    return pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, offsets, pyarrow.py_buffer(b"\xff\xfetext")]
    )


TWO = lines(good(1), good(2))
PAIRS = "prompt,completion\nq1,a1\nq2,a2\n"
OBJECTS = [json.loads(good(1)), json.loads(good(2))]
SPREAD = json.dumps(OBJECTS[0], indent=2)


def taken() -> list[Taken]:
    return [
        *_taken_lines(),
        *_taken_forms(),
        *_taken_json(),
        *_taken_tables(),
        *_taken_packed(),
        *_taken_paths(),
    ]


def _taken_lines() -> Iterator[Taken]:
    yield Taken("no newline at the end", TWO.rstrip(), 2)
    yield Taken("a byte order mark", codecs.BOM_UTF8 + TWO, 2)
    yield Taken(
        "files with marks joined into one",
        (codecs.BOM_UTF8 + lines(good(1))) + codecs.BOM_UTF8 + lines(good(2)),
        2,
    )
    yield Taken("line ends of Windows", TWO.replace(b"\n", b"\r\n"), 2)
    yield Taken("blank lines", b"\n \t\n" + TWO.replace(b"\n", b"\n\r\n\n") + b"\n\n", 2)
    yield Taken("a bad first line", lines("{", good(1)), 1, {"data.jsonl:1": "not_json"})
    yield Taken("a bad last line without a newline", lines(good(1)) + b"{", 1, {"data.jsonl:2": "not_json"})
    blank = b"\n\n" + lines("[]") + b"\n" + TWO
    yield Taken("a bad line between blank ones", blank, 2, {"data.jsonl:3": "not_an_object"})
    separated = '{"prompt": "a\u2028b\u2029c", "completion": "d\x85e"}'
    yield Taken("separators in a text", lines(separated, "{", good(1)), 2, {"data.jsonl:2": "not_json"})
    yield Taken(
        "a record on several lines",
        (SPREAD + "\n").encode() + TWO,
        2,
        dict.fromkeys((f"data.jsonl:{number + 1}" for number in range(SPREAD.count("\n") + 1)), "not_json"),
    )
    large = {"data.jsonl:2": "too_large", "data.jsonl:4": "not_json"}
    yield Taken("a line of 50 MB", _large, 2, large)
    yield Taken("a packed line of 50 MB", _packed_large, 1, {"data.jsonl.gz:2": "too_large"}, "data.jsonl.gz")
    many = json.dumps({"text": "a", **dict.fromkeys(map(str, range(5000)), 1)})
    yield Taken("thousands of fields without a meaning", lines(many, good(1)), 2)
    strange = json.dumps({"text": "a", "\ud83d": 1, "\x1b[2J": 1, "k" * 100_000: 1})
    yield Taken("strange fields without a meaning", lines(strange, good(1)), 2)
    yield Taken(
        "a deep field without a meaning", lines(_deep('{"text": "a", "more": ', 900, "}"), good(1)), 2
    )
    yield Taken("an integer of 4000 digits", lines(f'{{"text": "a", "n": {"9" * 4000}}}', good(1)), 2)


def _large(folder: Path) -> None:
    (folder / NAME).write_bytes(lines(good(1), _long_line(50), good(2), "{"))


def _packed_large(folder: Path) -> None:
    (folder / "data.jsonl.gz").write_bytes(gzip.compress(lines(good(1), _long_line(50))[:-1], 1))


def _long_line(megabytes: int) -> str:
    return json.dumps({"text": "a" * megabytes * 10**6})


def _taken_forms() -> Iterator[Taken]:
    mixed = [
        _said(USER, ANSWER),
        {"conversations": [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "1"}]},
        {"instruction": "Two?", "input": "", "output": "2"},
        {"instruction": "Three?", "response": "3"},
        {"prompt": "Four?", "completion": "4"},
        {"prompt": "Five?", "response": "5"},
        {"input": "Six?", "output": "6"},
        {"text": "Seven."},
        {
            "prompt": [{"role": "user", "content": "Eight?"}],
            "completion": [{"role": "assistant", "content": "8"}],
        },
    ]
    yield Taken("all forms of answers in one file", lines(*map(json.dumps, mixed)), len(mixed))
    pairs = [
        {"prompt": "One?", "chosen": "1", "rejected": "2"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "No."}]},
        {"chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, {**ANSWER, "content": "No."}]},
        {
            "input": {"messages": [{**USER, "content": "Two?"}]},
            "preferred_output": [ANSWER],
            "non_preferred_output": [{**ANSWER, "content": "No."}],
        },
    ]
    yield Taken("all forms of preference pairs in one file", lines(*map(json.dumps, pairs)), len(pairs))
    parts = _said(
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ANSWER
    )
    weights = _said(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1})
    called = _said(USER, CALL, RESULT, ANSWER, tools=[{"type": "function", "function": {"name": "look"}}])
    calls = [{"id": name, "function": {"name": "look", "arguments": {"at": name}}} for name in ("a", "b")]
    parallel = [{**CALL, "tool_calls": calls}, {**RESULT, "tool_call_id": "b"}, RESULT]
    good_ones = [
        parts,
        weights,
        called,
        _said(USER, *parallel, ANSWER),
        _said(USER, CALL),
        _said(
            {**SYSTEM, "role": "developer"},
            {**USER, "name": "Bob", "weight": 1},
            ANSWER,
            parallel_tool_calls=False,
        ),
        _said(USER, {"role": "assistant", "content": None, "refusal": "No."}),
        _said({**SYSTEM, "content": " "}, USER, ANSWER),
        _said(
            {**USER, "tool_calls": None}, {**ANSWER, "tool_calls": [], "name": None, "weight": None}, tools=[]
        ),
    ]
    yield Taken("what OpenAI allows", lines(*map(json.dumps, good_ones)), len(good_ones))


def _taken_json() -> Iterator[Taken]:
    one = "data.json"
    yield Taken("a JSON array", json.dumps(OBJECTS).encode(), 2, train=one)
    yield Taken(
        "a JSON array with a mark", codecs.BOM_UTF8 + json.dumps(OBJECTS, indent=1).encode(), 2, train=one
    )
    yield Taken("a single object", good(1).encode(), 1, train=one)
    yield Taken("a record on several lines as JSON", SPREAD.encode(), 1, train=one)
    yield Taken("objects one after the other", f"{SPREAD}\n{good(2)}{good(3)}".encode(), 3, train=one)
    yield Taken("lines in a file named .json", TWO, 2, train=one)
    bad = {"data.json:2": "not_an_object", "data.json:3": "unknown_format"}
    yield Taken("bad elements of an array", f"[{good(1)},\nnull,\n{{}},\n{good(2)}]".encode(), 2, bad, one)
    twice = f'[{good(1)},\n{{"text": "a",\n "text": "b"}},\n{good(2)}]'.encode()
    yield Taken("a key twice in an element", twice, 2, {"data.json:2": "duplicate_key"}, one)
    strange = f'[\n{{"text": "a", "n": NaN}}, {good(1)},\n{{"text": "a", "n": {"9" * 5000}}}]'.encode()
    yield Taken(
        "no numbers in elements", strange, 1, {"data.json:2": "not_json", "data.json:3": "not_json"}, one
    )


def _taken_tables() -> Iterator[Taken]:
    one = "data.csv"
    yield Taken("a CSV", PAIRS.encode(), 2, train=one)
    yield Taken("a CSV with a mark", codecs.BOM_UTF8 + b'"prompt","completion"\r\n"q","a"\r\n', 1, train=one)
    yield Taken("a CSV with line ends of Windows", PAIRS.replace("\n", "\r\n").encode(), 2, train=one)
    yield Taken("a CSV with semicolons", PAIRS.replace(",", ";").encode(), 2, train=one)
    yield Taken("a CSV without a newline at the end", PAIRS.rstrip().encode(), 2, train=one)
    yield Taken("a CSV with empty lines", ("\n\r\n" + PAIRS.replace("\n", "\n\n")).encode(), 2, train=one)
    columns = PAIRS + "q3\nq4,a4,more\nq5,a5\n"
    bad = {"data.csv:4": "wrong_columns", "data.csv:5": "wrong_columns"}
    yield Taken("a CSV with too few and too many columns", columns.encode(), 3, bad, one)
    lined = 'prompt,completion\n"q\n1","a\n""1"""\nq2,\nq3,a3\n'
    yield Taken(
        "a CSV with line breaks and quotes in fields", lined.encode(), 2, {"data.csv:5": "empty"}, one
    )
    header = 'prompt,"comple\ntion",completion\nq,b,a\n,b,a\n'
    yield Taken("a CSV with a line break in its header", header.encode(), 1, {"data.csv:4": "empty"}, one)
    yield Taken("a CSV with a quote inside a field", (PAIRS + 'say "hi",a3\n').encode(), 3, train=one)
    stray = PAIRS + '"q3" x,a3\nq4,a4\n'
    yield Taken("a CSV with a stray quote", stray.encode(), 3, {"data.csv:4": "wrong_columns"}, one)
    yield Taken("a CSV with a NUL", (PAIRS + "q\0,a\n").encode(), 2, {"data.csv:4": "control_character"}, one)
    returned = PAIRS + "q\rx,a\nq4,a4\n"
    yield Taken("a CSV with a carriage return", returned.encode(), 3, {"data.csv:4": "wrong_columns"}, one)
    over = PAIRS + '"q\n3"\nq4,a4\n'
    yield Taken("a CSV with a short row on two lines", over.encode(), 3, {"data.csv:4": "wrong_columns"}, one)
    yield Taken("a TSV", PAIRS.replace(",", "\t").encode(), 2, train="data.tsv")
    rows = parquet(prompt=["q1", None, "q3"], completion=["a1", "a2", "a3"])
    yield Taken(
        "a Parquet file with an empty field", rows, 2, {"data.parquet:2": "wrong_type"}, "data.parquet"
    )
    other = parquet(prompt=["q1", "q2"], completion=_no_utf8())
    yield Taken(
        "a Parquet file with a text that is none", other, 1, {"data.parquet:1": "wrong_type"}, "data.parquet"
    )
    dated = parquet(text=["a", "b"], day=pyarrow.array([0, 2**48], pyarrow.timestamp("s")))
    yield Taken(
        "a Parquet file with a date beyond all", dated, 1, {"data.parquet:2": "wrong_type"}, "data.parquet"
    )


def _taken_packed() -> Iterator[Taken]:
    yield Taken("gzip", gzip.compress(TWO), 2, train="data.jsonl.gz")
    yield Taken(
        "gzip in two parts",
        gzip.compress(lines(good(1))) + gzip.compress(lines(good(2))),
        2,
        train="data.jsonl.gz",
    )
    yield Taken("zstd", zstd(TWO), 2, train="data.jsonl.zst")
    yield Taken("zstd in two parts", zstd(lines(good(1))) + zstd(lines(good(2))), 2, train="data.jsonl.zstd")
    yield Taken("a packed CSV", gzip.compress(PAIRS.encode()), 2, train="data.csv.gz")
    yield Taken("a packed JSON array", zstd(json.dumps(OBJECTS).encode()), 2, train="data.json.zst")
    yield Taken("a packed Parquet file", gzip.compress(parquet(text=["a", "b"])), 2, train="data.parquet.gz")


def _taken_paths() -> Iterator[Taken]:
    yield Taken("a path with spaces and unicode", TWO, 2, train="Meine Daten/データ é.jsonl")
    yield Taken("a suffix in capitals", TWO, 2, train="DATA.JSONL")
    capitals = _files(all__A_JSONL=lines(good(1)), all__B_Csv=PAIRS.encode())
    yield Taken("suffixes in capitals in a folder", capitals, 3, train="all")
    hidden = _files(all__a_jsonl=TWO, all___b_jsonl=b"{", all___git__c_jsonl=b"{", all__README=b"{")
    yield Taken("a folder with hidden and other files", _also(hidden, _hide), 2, train="all")
    nested = _files(all__a__b_jsonl=lines(good(1)), all__b_jsonl=lines(good(2), "{"))
    yield Taken("folders in a folder", nested, 2, {"b.jsonl:2": "not_json"}, "all")
    apart = _files(a__data_jsonl=lines(good(1), "{"), b__data_jsonl=lines(good(2), good(3), "[]"))
    bad = {"a/data.jsonl:2": "not_json", "b/data.jsonl:3": "not_an_object"}
    yield Taken("two files of one name", apart, 3, bad, ["a/data.jsonl", "b/data.jsonl"])
    yield Taken("one file named twice", TWO, 2, train=NAME)
    starred = _files(part__1_jsonl=lines(good(1)), part__2_jsonl=lines(good(2)), part__3_txt=b"{")
    yield Taken("a glob", starred, 2, train="part/*.jsonl")
    yield Taken("a file named like a glob", TWO, 2, train="data[1].jsonl")
    inside = _also(_files(all__a_jsonl=TWO), lambda folder: (folder / "all/b.jsonl").symlink_to("a.jsonl"))
    yield Taken("a link inside its folder", inside, 2, train="all")
    looped = _also(_files(all__a_jsonl=TWO), lambda folder: (folder / "all/again").symlink_to("."))
    yield Taken("a folder that links to itself", looped, 2, train="all")
    nowhere = _also(_files(all__a_jsonl=TWO), lambda folder: (folder / "all/b.jsonl").symlink_to("b.jsonl"))
    yield Taken("a link to itself in a folder", nowhere, 2, train="all")
    linked = _also(_files(else__a_jsonl=TWO), lambda folder: (folder / NAME).symlink_to("else/a.jsonl"))
    yield Taken("a link that is named itself", linked, 2)


def _hide(folder: Path) -> None:
    (folder / "all/.hidden").mkdir()
    (folder / "all/.hidden/d.jsonl").write_bytes(b"{")
    (folder / "all/.e.jsonl").write_bytes(b"{")


def refused() -> list[Refused]:
    return [*_refused_text(), *_refused_json(), *_refused_tables(), *_refused_packed(), *_refused_paths()]


def _refused_text() -> Iterator[Refused]:
    text = f"{good(1)}\n{good(2)}\n"
    utf8 = "save the file as UTF-8"
    yield Refused(
        "UTF-16, little end first",
        codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        65,
        "data.jsonl: is UTF-16, from byte 0 on",
    )
    yield Refused(
        "UTF-16, big end first",
        codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        65,
        "data.jsonl: is UTF-16, from byte 0 on",
    )
    yield Refused(
        "UTF-16 without a mark",
        text.encode("utf-16-le"),
        65,
        f"data.jsonl: begins with NUL bytes, as UTF-16 does; {utf8}",
    )
    yield Refused("UTF-32", text.encode("utf-32-be"), 65, "data.jsonl: begins with NUL bytes")
    latin = TWO + '{"text": "café"}\n'.encode("latin-1")
    at = len(TWO) + len('{"text": "caf')
    yield Refused("Latin-1", latin, 65, f"data.jsonl:3: is not UTF-8 at byte {at} (0xe9); {utf8}")
    marked = codecs.BOM_UTF8 + latin
    yield Refused("Latin-1 after a mark", marked, 65, f"data.jsonl:3: is not UTF-8 at byte {at + 3} (0xe9)")
    cut = TWO + '{"text": "€'.encode()[:-1]
    yield Refused(
        "a character cut off at the end", cut, 65, f"data.jsonl:3: is not UTF-8 at byte {len(cut) - 2} (0xe2)"
    )
    late = b'{"text": "' + b"a" * 2_000_000 + b'"}\n\n' + b"\xff\n"
    yield Refused(
        "no UTF-8 after megabytes", late, 65, f"data.jsonl:3: is not UTF-8 at byte {len(late) - 2} (0xff)"
    )
    yield Refused("an empty file", b"", 65, "data.jsonl: holds no record")
    yield Refused("only blank lines", b"\n \r\n\t\n", 65, "data.jsonl: holds no record")
    yield Refused("only a mark", codecs.BOM_UTF8, 65, "data.jsonl: holds no record")
    yield Refused("nothing but a bad line", b"{\n", 65, "data.jsonl:1: not JSON at column 2")
    pair = json.dumps({"prompt": "Hi?", "chosen": "a", "rejected": "b"})
    yield Refused(
        "answers and preference pairs", lines(GOOD, pair), 65, "holds both answers and preference pairs"
    )
    yield Refused(
        "a picture named .jsonl",
        b"\x89PNG\r\n\x1a\n" + b"\0\1\2\3" * 99,
        65,
        "data.jsonl:1: is not UTF-8 at byte 0 (0x89)",
    )


def _refused_json() -> Iterator[Refused]:
    def array(name: str, text: str, told: str) -> Refused:
        return Refused(name, text.encode(), 65, told, "data.json")

    first, second = good(1), good(2)
    yield array(
        "an array broken at its start",
        f'[{{"a" 1}},\n{first}]',
        "data.json:1: not JSON at column 7: Expecting ':'",
    )
    yield array(
        "an array broken in the middle",
        f"[{first},\n{second},\n{{oops}}]",
        "data.json:3: not JSON at column 2",
    )
    yield array("an array without an end", f"[{first},\n{second}", "data.json:2: not JSON at column")
    yield array(
        "an array cut off in a record", f"[{first},\n{second[:30]}", "data.json:2: not JSON at column"
    )
    yield array(
        "an array cut off after a comma", f"[{first},\n{second},\n", "the file ends before the array does"
    )
    yield array(
        "an array with a comma at the end",
        f"[{first},\n{second},\n]",
        "data.json:3: not JSON at column 1: a value is missing",
    )
    yield array("an array with two commas", f"[{first},,\n{second}]", "data.json:1: not JSON at column")
    yield array(
        "an array without a comma",
        f"[{first}\n{second}]",
        "data.json:2: not JSON at column 1: Expecting ',' delimiter",
    )
    yield array(
        "garbage after an array",
        f"[{first},\n{second}]\n\nok",
        "data.json:4: not JSON at column 1: something stands after",
    )
    yield array(
        "two arrays", f"[{first}]\n[{second}]", "data.json:2: not JSON at column 1: something stands after"
    )
    yield array("an empty array", "[ ]", "data.json: holds no record")
    yield array("an empty JSON file", "", "data.json: holds no record")
    yield array("a deep array", "[" * 100_000, "data.json:1: not JSON at column 2: nested too deeply")
    yield array(
        "a key twice and then a mistake", '[{"a": 1, "a": 2,\n "b" 3}]', "data.json:2: not JSON at column 6"
    )
    yield array(
        "garbage after an object", f"{first}\n,", "data.json:2: not JSON at column 1: Expecting value"
    )
    wrapped = f'{{"data":\n [{first}]}}'
    yield array("an object around an array", wrapped, "data.json:1: is in no known form: it has data; write")
    yield Refused(
        "UTF-16 JSON", json.dumps(OBJECTS).encode("utf-16"), 65, "data.json: is UTF-16", "data.json"
    )


def _refused_tables() -> Iterator[Refused]:
    def table(name: str, text: str, told: str) -> Refused:
        return Refused(name, text.encode(), 65, told, "data.csv")

    yield table(
        "a quote that never closes",
        PAIRS + '"q3,a3\nq4,a4\n',
        "data.csv:4: a quotation mark opens in this row",
    )
    yield table(
        "a quote that closes in another row",
        PAIRS + '"q3,a3\nq4,a4\n"q5",a5\n',
        "data.csv:4: a quotation mark opens",
    )
    yield table(
        "a quote that never closes in the last row", PAIRS + 'q3,"a3', "data.csv:4: a quotation mark opens"
    )
    yield table(
        "a quote that never closes in the header",
        '"prompt,completion\nq,a\n',
        "data.csv:1: a quotation mark opens",
    )
    yield table(
        "a stray quote in the header",
        '"prompt"x,completion\nq,a\n',
        "data.csv:1: cannot be split into columns",
    )
    yield table(
        "line ends of an old Mac", PAIRS.replace("\n", "\r"), "data.csv:1: has a carriage return inside"
    )
    yield table(
        "a column twice", "prompt,completion,prompt\na,b,c\n", "data.csv:1: two columns are named 'prompt'"
    )
    yield table("only a header", "prompt,completion\n", "data.csv: holds no record")
    yield table("an empty CSV", "", "data.csv: holds no record")
    yield table("other columns", "question,answer\nq,a\n", "it has question, answer; write")
    yield table(
        "a CSV without a header", "q1,a1\nq2,a2\n", "data.csv:2: is in no known form: it has q1, a1; write"
    )
    too_long = "data.csv:3: has more than 16 MiB in one line"
    yield Refused("a CSV with a line of 17 MB", _large_table, 65, too_long, "data.csv")
    whole = parquet(text=["a", "b"])
    yield Refused(
        "a cut Parquet file", whole[:-20], 65, "data.parquet: is no Parquet file, or damaged", "data.parquet"
    )
    yield Refused(
        "a Parquet file cut in the middle", whole[:20], 65, "data.parquet: is no Parquet file", "data.parquet"
    )
    yield Refused("an empty Parquet file", b"", 65, "data.parquet: is no Parquet file", "data.parquet")
    yield Refused("text named .parquet", TWO, 65, "data.parquet: is no Parquet file", "data.parquet")
    yield Refused(
        "a Parquet file without rows",
        parquet(text=pyarrow.array([], pyarrow.string())),
        65,
        "holds no record",
        "data.parquet",
    )
    other = parquet(question=["q"], answer=["a"])
    yield Refused(
        "a Parquet file of other columns",
        other,
        65,
        "data.parquet:1: is in no known form: it has question, answer",
        "data.parquet",
    )


def _large_table(folder: Path) -> None:
    (folder / "data.csv").write_text(PAIRS.replace("q2", "q" * 17 * 2**20), encoding="utf-8")


def _refused_packed() -> Iterator[Refused]:
    many = lines(*map(good, range(500)))
    packed, other = gzip.compress(many), zstd(many)
    damaged = "cannot be unpacked, it is damaged or cut off"
    yield Refused("cut gzip", packed[: len(packed) // 2], 65, f"data.jsonl.gz: {damaged}", "data.jsonl.gz")
    yield Refused("gzip without its end", packed[:-4], 65, f"data.jsonl.gz: {damaged}", "data.jsonl.gz")
    changed = packed[:-8] + b"\0\0\0\0" + packed[-4:]
    yield Refused("gzip with another checksum", changed, 65, f"data.jsonl.gz: {damaged}", "data.jsonl.gz")
    yield Refused("gzip and garbage", packed + b"garbage", 65, f"data.jsonl.gz: {damaged}", "data.jsonl.gz")
    yield Refused("no gzip", TWO, 65, f"data.jsonl.gz: {damaged}", "data.jsonl.gz")
    yield Refused("zstd named .gz", other, 65, f"data.jsonl.gz: {damaged}", "data.jsonl.gz")
    yield Refused("cut zstd", other[:-10], 65, "data.jsonl.zst: cannot be unpacked", "data.jsonl.zst")
    yield Refused(
        "zstd and garbage", other + b"garbage", 65, "data.jsonl.zst: cannot be unpacked", "data.jsonl.zst"
    )
    yield Refused("no zstd", TWO, 65, "data.jsonl.zst: cannot be unpacked", "data.jsonl.zst")
    yield Refused(
        "nothing in gzip", gzip.compress(b""), 65, "data.jsonl.gz: holds no record", "data.jsonl.gz"
    )
    yield Refused(
        "no UTF-8 in gzip",
        gzip.compress(TWO + b"\xff\n"),
        65,
        "data.jsonl.gz:3: is not UTF-8",
        "data.jsonl.gz",
    )
    table = gzip.compress(parquet(text=["a"])[:-9])
    yield Refused(
        "a cut and packed Parquet file", table, 65, "data.parquet.gz: is no Parquet file", "data.parquet.gz"
    )


def _refused_paths() -> Iterator[Refused]:
    def nothing(folder: Path) -> None:
        (folder / "all").mkdir()

    yield Refused(
        "no such file", nothing, 78, "none.jsonl: there is no such file, folder or match", "none.jsonl"
    )
    yield Refused(
        "one of two files is missing",
        _files(data_jsonl=TWO),
        78,
        "none.jsonl: there is no such file",
        [NAME, "none.jsonl"],
    )
    yield Refused("a glob without a match", nothing, 78, "*.jsonl: no data file there", "*.jsonl")
    yield Refused("an empty folder", nothing, 78, "all: no data file there; known are .jsonl", "all")
    hidden = _also(nothing, _hide)
    yield Refused("a folder with hidden files alone", hidden, 78, "all: no data file there", "all")
    yield Refused(
        "an unknown suffix", TWO, 78, "'.txt' says no known format; rename it to end in .jsonl", "data.txt"
    )
    yield Refused("no suffix", TWO, 78, "has no suffix that says its format", "data")
    yield Refused("another compression", TWO, 78, "'.bz2' says no known format", "data.jsonl.bz2")
    yield Refused("a compression of nothing known", TWO, 78, "has no suffix that says its format", "data.gz")
    yield Refused(
        "an old copy in a folder",
        _files(all__a_jsonl=TWO, all__a_jsonl_bak=TWO),
        78,
        "'.bak' says no known format",
        "all",
    )
    yield Refused("a home of nobody", nothing, 78, "~nobody-here/a.jsonl", "~nobody-here/a.jsonl")

    def out(folder: Path) -> None:
        _files(else__a_jsonl=TWO, all__b_jsonl=TWO)(folder)
        (folder / "all/a.jsonl").symlink_to("../else/a.jsonl")

    told = "all/a.jsonl: leads out of"
    yield Refused("a link out of its folder", out, 65, told, "all")
    yield Refused("a link out of its folder in a glob", out, 65, told, "all/*.jsonl")
    loop = _also(nothing, lambda folder: (folder / NAME).symlink_to(NAME))
    yield Refused("a link to itself", loop, 78, "data.jsonl: there is no such file")
    dangling = _also(nothing, lambda folder: (folder / NAME).symlink_to("none.jsonl"))
    yield Refused("a link to nothing", dangling, 78, "data.jsonl: there is no such file")

    def misnamed(folder: Path) -> None:
        (folder / "all").mkdir()
        (folder / "all" / "caf\udce9.jsonl").write_bytes(TWO)

    yield Refused("a name that is not UTF-8", misnamed, 78, "its name is not UTF-8; rename the file", "all")
