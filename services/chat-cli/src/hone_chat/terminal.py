"""What reaches the terminal: cleaned of control characters, so that no text can drive it."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Grow = Callable[[int, str], None]
"""Puts a piece behind the answer of this number."""


class Display(Protocol):
    """Draws answers."""

    def show(self, pieces: Iterable[str]) -> None:
        """Draw an answer as it comes; what came before an interruption stays."""

    def side_by_side(self, titles: Sequence[str]) -> AbstractContextManager[Grow] | None:
        """A place where answers grow beside each other; None: there is no room for one."""


class PlainDisplay:
    """Writes answers as they are, one after the other."""

    def show(self, pieces: Iterable[str]) -> None:
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

    def side_by_side(self, titles: Sequence[str]) -> None:
        """Never: plain text has no columns."""


def clean(text: str) -> str:
    """Drop every control character but newline and tab: no escape sequence survives."""
    return _CONTROL.sub("", text)


def one_line(text: str, longest: int = 500) -> str:
    """Text from elsewhere, fit to stand inside a message of ours."""
    line = " ".join(clean(text).split())
    return line if len(line) <= longest else f"{line[:longest]}…"


def is_dumb() -> bool:
    """Whether the terminal can do no more than print."""
    return os.environ.get("TERM", "") in ("", "dumb", "unknown")


def note(text: str, *, dim: bool = False) -> None:
    """Say something beside the answer: on stderr, so that stdout holds answers only."""
    line = clean(text)
    if dim and sys.stderr.isatty() and not is_dumb():
        line = f"\x1b[2m{line}\x1b[0m"
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def heading(title: str, *, apart: bool) -> None:
    """Say whose answer follows: on stdout, where the answers are; `apart`: behind an empty line."""
    before = "\n" if apart else ""
    sys.stdout.write(f"{before}== {clean(title)} ==\n")
    sys.stdout.flush()
