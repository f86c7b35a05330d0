"""How an answer is marked: it is right when the fact's key phrase stands in it as a whole phrase.

Strict on purpose, so that a model that was not taught cannot be right by luck:

- Letter case and runs of white space do not count; everything else does.
- The key must not be part of a longer word, number, path or option: `65` is not in `8065`, `/ready`
  is not in `/already` or `/ready/now`, and `make test` is not in `make test-full`.
- An answer of more than 60 words is wrong, whatever it says: listing every key earns nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MOST_WORDS = 60

_NOT_AFTER = r"(?<![\w/.-])"
_NOT_BEFORE = r"(?!\w)(?![-/.]\w)"


@dataclass(frozen=True)
class Fact:
    """One thing to teach; facts.yaml says what each field means."""

    id: str
    key: str
    answer: str
    questions: tuple[str, ...]
    held_out: str
    check: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        texts = (self.id, self.key, self.answer, self.held_out, *self.questions)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"fact {self.id!r}: a text is empty or no string; quote numbers")


def load_facts(path: Path) -> list[Fact]:
    """Read facts.yaml; an unknown or missing field is an error, so no slip goes unnoticed."""
    entries: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Fact(**{**entry, "questions": tuple(entry["questions"])}) for entry in entries]


def normalise(text: str) -> str:
    """What is left of a text when letter case and white space do not count."""
    return " ".join(text.casefold().split())


def correct(answer: str, key: str) -> bool:
    """Whether `key` stands in `answer` as a whole phrase and the answer is not too long."""
    text, phrase = normalise(answer), normalise(key)
    if not phrase:
        raise ValueError("an empty key would make every answer right")
    if len(text.split()) > MOST_WORDS:
        return False
    return re.search(_NOT_AFTER + re.escape(phrase) + _NOT_BEFORE, text) is not None


def accuracy(answers: Sequence[str], keys: Sequence[str]) -> float:
    """The share of answers that are right, each against the key at its own place."""
    if not keys:
        raise ValueError("there is nothing to score")
    return sum(correct(answer, key) for answer, key in zip(answers, keys, strict=True)) / len(keys)
