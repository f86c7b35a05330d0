"""The text of HTML, as posts and pages have it."""

from html.parser import HTMLParser
from typing import Any

_BREAKS = {"p", "br", "div", "li", "tr", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote"}
_HIDDEN = {"script", "style"}


def html_text(html: str) -> str:
    """Without tags, scripts and styles; paragraphs and list items begin on a line of their own."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = "".join(reader.parts).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def plain(value: Any) -> Any:
    """A value with every text in it as `html_text` has it."""
    if isinstance(value, str):
        return html_text(value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.hidden += tag in _HIDDEN
        if tag in _BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in _HIDDEN and self.hidden > 0
        if tag in _BREAKS:
            self.parts.append("\n")

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Such as Word's `<![if !vml]>`; the library gives up on a keyword that it does not know."""
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            return self.parse_bogus_comment(i)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)
