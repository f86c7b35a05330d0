"""Which records of a source are wanted: keywords and patterns, looked for in roles or columns."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from hone_contract.data_spec import FilterSpec, SourceSpec
from hone_trainer.data.formats import Draft
from hone_trainer.data.messages import ROLES
from hone_trainer.data.rejection import Rejected

# Thai to Tibetan, Burmese, Khmer, kana and Chinese characters; Korean endings follow a word without a space.
_RANGES = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNSPACED = f"[{_RANGES}]"
_WORD = rf"[^\W{_RANGES}]"
"""A letter or digit of any other script."""
_WHITE_SPACE = re.compile(r"(?:\\\s)+")
"""As re.escape writes it."""


class Filter:
    """The include and exclude lists of one source."""

    def __init__(self, source: SourceSpec) -> None:
        self._include = [_Test(each) for each in source.include]
        self._exclude = [_Test(each) for each in source.exclude]

    def wants(self, row: Any, draft: Draft) -> bool:
        """Whether a row, and the record that was made of it, is to be kept.

        Raises Rejected when a test looks at a column that the row has not.
        """
        if self._include and not any(test.holds(row, draft) for test in self._include):
            return False
        return not any(test.holds(row, draft) for test in self._exclude)


class _Test:
    def __init__(self, spec: FilterSpec) -> None:
        self.field = spec.field
        patterns = [_keywords(spec.keywords)] if spec.keywords else []
        patterns += [spec.regex] if spec.regex is not None else []
        self.patterns = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]

    def holds(self, row: Any, draft: Draft) -> bool:
        text = _text_of(self.field, row, draft)
        return any(pattern.search(text) for pattern in self.patterns)


def _keywords(words: list[str]) -> str:
    """Words with the same borders stand in one group: `re` then looks at their first letters alone."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for word in words:
        groups[_borders(word)].append(_WHITE_SPACE.sub(r"\\s+", re.escape(word)))
    return "|".join(f"{before}(?:{'|'.join(each)}){after}" for (before, after), each in groups.items())


def _borders(word: str) -> tuple[str, str]:
    """At each end, but where a script is written without spaces: 芯片 is in "AI芯片设计"."""
    before = "" if re.match(_UNSPACED, word[0]) else f"(?<!{_WORD})"
    after = "" if re.match(_UNSPACED, word[-1]) else f"(?!{_WORD})"
    return before, after


def _text_of(field: str | None, row: Any, draft: Draft) -> str:
    if isinstance(row, Mapping) and field in row:
        value = row[field]
        return value if isinstance(value, str) else _as_text(value)
    role = ROLES.get(field) if field is not None else None
    if field is not None and role is None:
        raise Rejected("missing_column", f"has no column {field!r} to filter by; it is no role either")
    every = draft.messages + (draft.chosen or [])
    return "\n".join(message["content"] for message in every if role in (None, message["role"]))


def _as_text(value: Any) -> str:
    try:
        return str(value)
    except RecursionError:
        # Nested nearly as deeply as can be read.
        return ""
