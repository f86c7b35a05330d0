"""What was probably meant by a name that there is not."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the word; None: none is like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence to put behind a message, with the space before it; empty if no name is close."""
    meant = closest(word, known)
    return f" Did you mean {meant}?" if meant else ""
