"""Draws an answer as markdown while it comes.

A region that is redrawn cannot be taller than the screen. So blocks that are finished are printed
for good, and only the end of the answer is redrawn, cropped to its last lines.
"""

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from hone_chat.terminal import clean

_FENCE = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
# A line that is indented, or may start a list item, can still belong to the block before it.
_BLOCK_END = re.compile(r"\n\n+(?=[^\s\d*+-])")


def can_draw() -> bool:
    """Whether stdout is a terminal that can redraw."""
    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


def show_markdown(pieces: Iterable[str]) -> None:
    """Draw an answer as it comes; what came before an interruption stays on the screen."""
    page = _Page(Console(highlight=False))
    try:
        with Live(console=page.console, transient=True, refresh_per_second=10) as live:
            for piece in pieces:
                page.add(clean(piece))
                live.update(_Tail(page.pending))
    finally:
        page.finish()


def split_finished(text: str) -> tuple[str, str]:
    """Cut text behind the last block that later text cannot change."""
    for end in reversed(list(_BLOCK_END.finditer(text))):
        head = text[: end.start()]
        if len(_FENCE.findall(head)) % 2 == 0:
            return head, text[end.end() :]
    return "", text


class _Page:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.pending = ""
        self._is_empty = True

    def add(self, piece: str) -> None:
        finished, self.pending = split_finished(self.pending + piece)
        self._print(finished)

    def finish(self) -> None:
        self._print(self.pending)

    def _print(self, text: str) -> None:
        if not text.strip():
            return
        if not self._is_empty:
            self.console.print()
        self.console.print(_markdown(text))
        self._is_empty = False


class _Tail:
    """The last lines of a text that is still growing, as many as the screen has room for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, console.height - 1)
        drawn = _markdown(self._text)
        lines = console.render_lines(drawn, options.update(height=None), pad=False)
        for line in lines[-room:]:
            yield from line
            yield Segment.line()


def _markdown(text: str) -> Markdown:
    # Links are written out: a hidden address could be any other than the text claims.
    markdown = Markdown(text, hyperlinks=False)
    for token in markdown.parsed:
        # HTML would be left out, and with it any <tag> that an answer is about.
        if token.type == "html_block":
            token.type = "code_block"
        for child in token.children or []:
            if child.type == "html_inline":
                child.type = "text"
    return markdown
