"""Conversations in files: chat JSONL as the trainer reads it, and Markdown for people."""

import json
from pathlib import Path
from typing import Any

from hone_chat.conversation import Conversation, Turn
from hone_chat.errors import BadInput
from hone_chat.places import typed_path

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def save(conversation: Conversation, file: Path) -> None:
    """Write the conversation as one line of chat JSONL; an existing file is not touched."""
    line = json.dumps({"messages": conversation.messages()}, ensure_ascii=False)
    _write_new(file, f"{line}\n")


def export(conversation: Conversation, file: Path) -> None:
    """Write the conversation as Markdown; an existing file is not touched."""
    parts = ["# Conversation"]
    if conversation.system:
        parts += ["## System prompt", conversation.system]
    for number, turn in enumerate(conversation.turns, 1):
        by = f", by {turn.model}" if turn.model else ""
        parts += [f"## Question {number}", turn.question, f"## Answer {number}{by}", turn.answer.rstrip("\n")]
    _write_new(file, "\n\n".join(parts) + "\n")


def load(argument: str) -> Conversation:
    """The conversation in `FILE`, or in `FILE LINE` where the file holds several."""
    file, wanted = _file_and_line(argument)
    try:
        number, line = _record(file, wanted)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}. Name another file.") from error
    return _conversation(line, f"{file}:{number}")


def _write_new(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise BadInput(f"{file} exists and is left as it is. Name another file.") from error
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror}. Name another file.") from error


def _file_and_line(argument: str) -> tuple[Path, int | None]:
    whole = typed_path(argument)
    name, _, number = argument.rpartition(" ")
    if name and number.isdecimal() and not whole.exists():
        return typed_path(name.rstrip()), int(number)
    return whole, None


def _record(file: Path, wanted: int | None) -> tuple[int, bytes]:
    """The line wanted, else the only one that is not empty; with its number."""
    found: tuple[int, bytes] | None = None
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip() or wanted not in (None, number):
                continue
            if found:
                raise BadInput(f"{file} holds several conversations. Name a line: /load {file} {found[0]}")
            found = number, line
            if wanted is not None:
                break
    if found is None:
        where = f"line {wanted} of {file}" if wanted is not None else str(file)
        raise BadInput(f"There is no conversation in {where}. Name another.")
    return found


def _conversation(line: bytes, place: str) -> Conversation:
    messages = _said(line, place)
    first = 1 if messages and messages[0][0] == "system" else 0
    for index, (role, _) in enumerate(messages[first:]):
        if role != ("user", "assistant")[index % 2]:
            raise BadInput(
                f"{place}: messages[{index + first}] is of {role!r}, out of turn: "
                "user and assistant alternate, behind one system prompt at most."
            )
    texts = [text for _, text in messages[first:]]
    if not texts or len(texts) % 2:
        raise BadInput(
            f"{place}: the last message must be the assistant's. Add an answer, or drop the question."
        )
    turns = [Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)]
    return Conversation(system=messages[0][1] if first else None, turns=turns)


def _said(line: bytes, place: str) -> list[tuple[str, str]]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{place}: not UTF-8. Convert it first, for instance with iconv.") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not JSON: {error}. /load reads chat JSONL, as /save writes it.") from error
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list):
        raise BadInput(f'{place}: no {{"messages": [...]}}. /load reads chat JSONL, as /save writes it.')
    return [_message(message, f"{place}: messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, place: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise BadInput(f"{place} is no object with role and content.")
    role = message.get("role")
    if not (isinstance(role, str) and role in _ROLES):
        raise BadInput(f"{place}.role is {role!r}; a conversation here has {', '.join(_ROLES)}.")
    if message.get("tool_calls"):
        raise BadInput(f"{place} calls tools, and hone-chat has none. Load a conversation without them.")
    return _ROLES[role], _content(message.get("content"), place)


def _content(content: Any, place: str) -> str:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        whole = [text for text in texts if isinstance(text, str)]
        content = "".join(whole) if len(whole) == len(content) else None
    if not isinstance(content, str):
        raise BadInput(f"{place}.content is no text.")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{place}.content holds half a character (a lone surrogate). Correct it.") from error
    return content
