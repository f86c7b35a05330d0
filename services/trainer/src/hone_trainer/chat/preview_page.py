"""The preview as a page: one file without scripts, in which nothing of the data is taken as HTML."""

from html import escape

from hone_trainer.chat.preview import Shown

_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
h2 {{ font-size: 1rem; margin: 2rem 0 .5rem; }}
pre {{ border: 1px solid #8886; border-radius: .5rem; padding: 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
mark {{ background: #2a73; color: inherit; border-radius: .2rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Each record as the model sees it, special tokens included. It learns what is <mark>marked</mark>.</p>
"""


def as_page(shown: list[Shown], title: str) -> str:
    """The whole page."""
    return _HEAD.format(title=escape(title)) + "".join(map(_section, shown)) + "</body>\n</html>\n"


def _section(record: Shown) -> str:
    texts = (f"<mark>{escape(text)}</mark>" if learned else escape(text) for text, learned in record.parts)
    # The browser drops a line break that comes first.
    return f"<h2>{escape(record.title)}</h2>\n<pre>\n{''.join(texts)}</pre>\n"
