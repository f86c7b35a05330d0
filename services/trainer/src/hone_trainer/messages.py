"""OpenAI's messages JSONL: reading it, and saying exactly which line is wrong."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.record import Messages, Record

ROLES = ("system", "user", "assistant")
_SHOWN = 10


def read_records(path: Path) -> list[Record]:
    """Read a file of `{"messages": [...]}` lines; empty lines are passed over.

    Raises BadConfiguration when the file cannot be read, BadInput naming the bad lines otherwise.
    """
    records: list[Record] = []
    problems: list[str] = []
    for number, line in _lines(path):
        try:
            records.append(Record(_parse(line), f"{path.name}:{number}"))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise BadInput("\n       ".join(_shorten(problems)))
    if not records:
        raise BadInput(f'{path}: holds no record; it takes one {{"messages": [...]}} a line')
    return records


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadConfiguration(
            f"{path}: cannot be read: {error.strerror}; name a file with --data"
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error
    # Not splitlines(): it also breaks at U+2028, which may stand inside a JSON string.
    return ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())


def _parse(line: str) -> Messages:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at column {error.colno}: {error.msg}") from error
    except RecursionError:
        raise ValueError("is nested too deeply to be a record") from None
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError('has no "messages" list; a record is {"messages": [{"role": …, "content": …}]}')
    if unknown := sorted(value.keys() - {"messages"}):
        raise ValueError(f"has the key {unknown[0]!r}, which is not understood; remove it")
    messages = [_message(index, message) for index, message in enumerate(value["messages"])]
    _check_order([message["role"] for message in messages])
    return messages


def _message(index: int, message: object) -> dict[str, str]:
    place = f"messages[{index}]"
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise ValueError(f"{place} must have exactly the keys role and content")
    if message["role"] not in ROLES:
        raise ValueError(f"{place}.role is {message['role']!r}; known are {', '.join(ROLES)}")
    if not isinstance(message["content"], str) or not message["content"].strip():
        raise ValueError(f"{place}.content is empty or no text")
    if re.search(r"[\ud800-\udfff]", message["content"]):
        raise ValueError(f"{place}.content has half of a character (a lone surrogate, \\ud800 to \\udfff)")
    return {"role": message["role"], "content": message["content"]}


def _check_order(roles: list[str]) -> None:
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if "system" in turns:
        raise ValueError("a system message may only come first")
    if not turns or turns[-1] != "assistant":
        raise ValueError("must end with an assistant message: there is no answer to learn")
    if any(role != ("user", "assistant")[index % 2] for index, role in enumerate(turns)):
        raise ValueError("user and assistant must take turns, the user first")


def _shorten(problems: list[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"… and {more} more bad lines"] if more > 0 else [])
