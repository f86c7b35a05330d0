"""An answer as markdown: where its blocks end, and how they look.

A region that is redrawn cannot be taller than the screen. So of a text that still grows only the last
lines are shown, and blocks that no later text can change need not be drawn again.
"""

import re

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown
from rich.segment import Segment

_FENCE = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
# A line that is indented, or may start a list item, can still belong to the block before it.
_BLOCK_END = re.compile(r"\n\n+(?=[^\s\d*+-])")


def split_finished(text: str) -> tuple[str, str]:
    """Cut text behind the last block that later text cannot change."""
    return _cut(text, len(text))


def last_blocks(text: str, length: int) -> str:
    """The blocks at the end of a text, together at least this long if the text is."""
    return _cut(text, max(0, len(text) - length))[1]


def as_markdown(text: str) -> Markdown:
    """The text, to be drawn; nothing in it is hidden."""
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


class Tail:
    """The last lines of a text that is still growing: as many as the screen has room for beside `others`."""

    def __init__(self, text: str, others: int = 1) -> None:
        self._text = text
        self._others = others

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, console.height - self._others)
        # A line drawn may stand for more characters than it has columns, but hardly for twice as many.
        text = last_blocks(self._text, 2 * room * options.max_width)
        lines = console.render_lines(as_markdown(text), options.update(height=None), pad=False)
        for line in lines[-room:]:
            yield from line
            yield Segment.line()


def _cut(text: str, before: int) -> tuple[str, str]:
    for end in reversed(list(_BLOCK_END.finditer(text))):
        head = text[: end.start()]
        if end.start() <= before and len(_FENCE.findall(head)) % 2 == 0:
            return head, text[end.end() :]
    return "", text
