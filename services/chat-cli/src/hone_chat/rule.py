"""Which values a number may have: one rule, whether it is typed as an option, in a file, or in the chat."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Number = int | float


def _any(_value: Number) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a check."""

    wanted: str
    accepts: Callable[[Number], bool] = _any
    whole: bool = False

    def read(self, text: str) -> Number:
        """The number that a text says; ValueError tells what it must be."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            raise self._wrong(text) from None
        return self.check(value, text)

    def check(self, value: object, shown: object = None) -> Number:
        """A number that is already one; `shown` is how the user wrote it, None: as the value is."""
        numeric = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if not (numeric and isinstance(value, int | float) and math.isfinite(value) and self.accepts(value)):
            raise self._wrong(value if shown is None else shown)
        return value if self.whole else float(value)

    def _wrong(self, shown: object) -> ValueError:
        return ValueError(f"must be {self.wanted}, not {shown!r}")


SECONDS = Rule("a number above 0", lambda value: value > 0)
"""The rule for a time to wait."""
