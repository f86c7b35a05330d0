"""How many tokens a request may take, and how many it took: read from bytes that are not parsed otherwise."""

import json
import math
import re
from dataclasses import dataclass

from hone_api.serving.model_field import ModelField

_ASKED = b'{"include_usage":true}'
_OPTIONS, _MOST_OPTIONS = "stream_options", 1024
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_BYTES_A_TOKEN = 4
_HUGE = 10**12
# Inside a text of JSON the quotes would be escaped, so these are found only where they are meant.
_USAGE = re.compile(rb'"usage":\s*\{')
_NO_CHOICES = re.compile(rb'"choices":\s*\[\]')
_COUNTS = [
    re.compile(rb'"%b_tokens":\s*([0-9]{1,15})\b' % each)
    for each in (b"(?:prompt|input)", b"(?:completion|output)")
]
_LONGEST_USAGE = 4096
_EVENT_ENDS = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")


@dataclass(frozen=True)
class Tokens:
    """Of one request."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def prompt_estimate(body: bytes) -> int:
    """By its length, as OpenAI does before it has counted."""
    return len(body) // _BYTES_A_TOKEN


def most_asked(field: ModelField) -> int | None:
    """Tokens of each answer to a request. None: it sets no limit."""
    said = [_number(field, name) for name in _LIMITS if name in field.others]
    # Which of them counts is the route's and the server's to know.
    return max((each for each in said if each is not None), default=None)


def answers_asked(field: ModelField) -> int:
    """How many: `n` to each prompt."""
    return max(1, _number(field, "n") or 1) * field.prompts


def usage_wanted(field: ModelField, path: str) -> bytes | None:
    """`stream_options` by which a stream ends with its usage. None: it does already, or is no stream."""
    if path.endswith("/responses") or field.other("stream") != b"true":
        return None
    said = field.other(_OPTIONS)
    if said is None or len(said) > _MOST_OPTIONS:
        # What is longer, the server refuses.
        return _ASKED if said is None else None
    try:
        options = json.loads(said)
    except ValueError:
        return None
    if options is None:
        return _ASKED
    if not isinstance(options, dict) or options.get("include_usage") not in (None, False):
        return None
    # Nothing but the last event is left out, so nothing may be in the others.
    options.pop("continuous_usage_stats", None)
    return json.dumps(options | {"include_usage": True}, separators=(",", ":")).encode()


def read_usage(answer: bytes) -> Tokens | None:
    """The last that there is. None: it tells none."""
    at = answer.rfind(b'"usage":')
    found = _USAGE.match(answer, at) if at >= 0 else None
    if found is None:
        return None
    counts = [each.search(answer, found.end(), found.end() + _LONGEST_USAGE) for each in _COUNTS]
    prompt, completion = (int(each[1]) if each else 0 for each in counts)
    return Tokens(prompt, completion)


class Tally:
    """Counts while an answer passes."""

    def __init__(self, prompt: int, hides: bool) -> None:
        """`prompt` is an estimate; `hides`: it was we who asked for the usage, so its event is left out."""
        self._prompt, self._hides = prompt, hides
        self._told: Tokens | None = None
        self._pieces = 0
        self.begun = False
        """Whether there is an answer."""

    def whole(self, body: bytes) -> None:
        self.begun, self._told = True, read_usage(body)
        self._pieces = len(body) // _BYTES_A_TOKEN

    def events(self, events: bytes) -> bytes:
        """Whole ones; what of them the client gets."""
        self._pieces += events.count(b"data: ")
        if b'"usage":' not in events:
            return events
        self._told = read_usage(events) or self._told
        if not self._hides:
            return events
        each = _EVENT_ENDS.split(events)
        return b"".join(one for one in each if not (_USAGE.search(one) and _NO_CHOICES.search(one)))

    @property
    def tokens(self) -> Tokens:
        """An answer that was broken off is as many as its events, so that leaving early is not free."""
        return self._told or Tokens(self._prompt, self._pieces)


def _number(field: ModelField, name: str) -> int | None:
    """Servers take `"16"` and `16.0` for 16."""
    try:
        value = float((field.other(name) or b"").strip(b'"'))
    except ValueError:
        return None
    return None if math.isnan(value) or value < 0 else int(min(value, _HUGE))
