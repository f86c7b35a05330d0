"""How many tokens an answer came to, read from its bytes without parsing the rest."""

import json
import re
from dataclasses import dataclass

# Inside a text of JSON the quotes would be escaped, so this is found only where it is meant.
_USAGE = re.compile(rb'"usage":\s*\{')
_DECODER = json.JSONDecoder()
_MAX_LENGTH = 4096
_BYTES_A_TOKEN = 4


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def read_usage(body: bytes) -> Usage | None:
    """None: it tells none."""
    found = _USAGE.search(body)
    if found is None:
        return None
    start = found.end() - 1
    try:
        told, _ = _DECODER.raw_decode(body[start : start + _MAX_LENGTH].decode("latin-1"))
    except ValueError:
        return None
    return Usage(_number(told.get("prompt_tokens")), _number(told.get("completion_tokens")))


def estimate(body: bytes, chunks: int) -> Usage:
    """Of an answer that the client did not wait for, so that leaving early is not free."""
    return Usage(len(body) // _BYTES_A_TOKEN, chunks)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
