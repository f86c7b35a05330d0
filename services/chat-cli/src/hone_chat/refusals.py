"""Which of the fields beyond OpenAI's core a server refused, so that the question can be put without them."""

import re
from collections.abc import Iterable, Mapping

import openai


def refused_fields(error: openai.APIStatusError, sent: Iterable[str]) -> list[str]:
    """Those of the fields sent that the server's message is about."""
    said = " ".join(_about(error.body)) or error.message
    return [name for name in sent if re.search(rf"\b{name}\b", said)]


def _about(body: object) -> list[str]:
    # What a server repeats of the question is left out: it may hold any word.
    if isinstance(body, Mapping):
        return [text for key in ("message", "param", "detail", "reason") for text in _about(body.get(key))]
    if isinstance(body, list):
        return [text for fault in body if isinstance(fault, Mapping) for text in _place_and_message(fault)]
    return [body] if isinstance(body, str) else []


def _place_and_message(fault: Mapping[str, object]) -> list[str]:
    place = fault.get("loc")
    parts = place if isinstance(place, list) else []
    return [*map(str, parts), str(fault.get("msg", ""))]
