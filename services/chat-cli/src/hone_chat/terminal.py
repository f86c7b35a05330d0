"""What reaches the terminal: cleaned of control characters, so that no text can drive it."""

import re
import sys
from collections.abc import Callable, Iterable

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Show = Callable[[Iterable[str]], None]
"""Draws an answer piece by piece."""


def clean(text: str) -> str:
    """Drop every control character but newline and tab: no escape sequence survives."""
    return _CONTROL.sub("", text)


def one_line(text: str, longest: int = 500) -> str:
    """Text from elsewhere, fit to stand inside a message of ours."""
    line = " ".join(clean(text).split())
    return line if len(line) <= longest else f"{line[:longest]}…"


def note(text: str) -> None:
    """Say something beside the answer: on stderr, so that stdout holds answers only."""
    sys.stderr.write(f"{clean(text)}\n")
    sys.stderr.flush()


def show_plain(pieces: Iterable[str]) -> None:
    """Write an answer as it comes, ending in a newline; byte for byte unless to a terminal."""
    fit = clean if sys.stdout.isatty() else str
    last = "\n"
    try:
        for piece in map(fit, pieces):
            sys.stdout.write(piece)
            sys.stdout.flush()
            last = piece or last
    finally:
        if not last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
