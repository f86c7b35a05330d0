"""Draws answers as markdown while they come."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from rich.console import Console
from rich.live import Live

from hone_chat.columns import NARROWEST, columns
from hone_chat.markdown import Tail, as_markdown, split_finished
from hone_chat.terminal import Grow, clean


def can_draw() -> bool:
    """Whether stdout is a terminal that can redraw."""
    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


class MarkdownDisplay:
    """Draws with rich: blocks that are finished for good, and the end of the answer again and again."""

    def show(self, pieces: Iterable[str]) -> None:
        """Draw an answer as it comes; what came before an interruption stays on the screen."""
        page = _Page(Console(highlight=False))
        try:
            with Live(console=page.console, transient=True, refresh_per_second=10) as live:
                for piece in pieces:
                    finished = page.add(clean(piece))
                    # Where a block is printed, its end must not stand below it once more.
                    live.update(Tail(page.pending), refresh=bool(finished))
                    page.print(finished)
        finally:
            page.print(page.pending)

    def side_by_side(self, titles: Sequence[str]) -> AbstractContextManager[Grow] | None:
        """Columns, if the terminal is wide enough for them."""
        console = Console(highlight=False)
        return columns(titles, console) if console.width >= NARROWEST else None


class _Page:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.pending = ""
        self._is_empty = True

    def add(self, piece: str) -> str:
        """The blocks that are finished by this piece."""
        finished, self.pending = split_finished(self.pending + piece)
        return finished

    def print(self, text: str) -> None:
        if not text.strip():
            return
        if not self._is_empty:
            self.console.print()
        self.console.print(as_markdown(text))
        self._is_empty = False
