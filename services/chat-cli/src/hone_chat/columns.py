"""Answers that grow side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hone_chat.markdown import Tail, as_markdown
from hone_chat.terminal import Grow, clean

NARROWEST = 100
"""Columns that a terminal needs, so that half of it can be read."""
_FRAME = 5
"""Lines that the frame takes: titles that do not wrap, rules, and the cursor's own."""


@contextmanager
def columns(titles: Sequence[str], console: Console) -> Iterator[Grow]:
    """Draw the last lines of each answer while they come; at the end, and when interrupted, all of them."""
    texts = ["" for _ in titles]

    def grow(index: int, piece: str) -> None:
        texts[index] += clean(piece)
        live.update(_table(titles, [Tail(text, _FRAME) for text in texts]))

    try:
        with Live(console=console, transient=True, refresh_per_second=10) as live:
            yield grow
    finally:
        console.print(_table(titles, [as_markdown(text) for text in texts]))


def _table(titles: Sequence[str], answers: Sequence[RenderableType]) -> Table:
    table = Table(box=box.MINIMAL, expand=True)
    for title in titles:
        table.add_column(Text(clean(title), no_wrap=True, overflow="ellipsis"), ratio=1, no_wrap=False)
    table.add_row(*answers)
    return table
