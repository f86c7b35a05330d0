"""Why a row is not taken as a record."""

import re
from collections.abc import Iterable
from typing import Any, Literal, get_args

Reason = Literal[
    "not_json",
    "duplicate_key",
    "too_deep",
    "too_large",
    "wrong_columns",
    "not_an_object",
    "unknown_format",
    "missing_column",
    "wrong_type",
    "unknown_role",
    "role_order",
    "tool_order",
    "no_answer",
    "empty",
    "same_answers",
    "control_character",
    "lone_surrogate",
    "format",
    "template",
    "too_short",
    "too_long",
]
"""In a report, what is wrong with a rejected record."""

Removal = Literal[
    "exact_duplicate", "normalised_duplicate", "near_duplicate", "eval_leak", "filtered", "not_sampled"
]
"""In a report, why a good record is left out."""

REMOVALS: tuple[Removal, ...] = get_args(Removal)


_LONGEST, _NAME, _NAMES = 500, 40, 8
# Whoever reads a message must see the row's words and not be moved by them: a key may hold a terminal's
# commands, and a lone surrogate cannot be written as UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Rejected(Exception):
    """This row is no good record; the message says what is wrong, without the place."""

    def __init__(self, reason: Reason, message: str, excerpt: str = "") -> None:
        super().__init__(printable(message, _LONGEST))
        self.reason = reason
        self.excerpt = excerpt
        """The beginning of a row that could not be read."""

    def __reduce__(self) -> tuple[type["Rejected"], tuple[str, str, str]]:
        """An exception with arguments of its own does not come through a pipe by itself."""
        return Rejected, (self.reason, str(self), self.excerpt)


def printable(text: str, longest: int) -> str:
    """A text from the data on one line, cut short, with what has no shape written as an escape."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], cut)


def named(names: Iterable[Any]) -> str:
    """The first few names of columns or keys, each cut short."""
    every = list(names)
    more = [f"… and {len(every) - _NAMES} more"] if len(every) > _NAMES else []
    return ", ".join([*(printable(str(name), _NAME) for name in every[:_NAMES]), *more])
