"""What may not follow, kept up token by token: no step looks at what was said before it."""

from collections import defaultdict
from collections.abc import Collection, Iterable


class NGramIndex:
    """The sequences of `size` tokens of one request: which token ended them, by the tokens before it."""

    def __init__(self, size: int) -> None:
        self._before = size - 1
        self._ends: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        self._last: tuple[int, ...] = ()
        self.length = 0
        """Tokens taken in so far."""

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in the tokens that came after those before."""
        for token in tokens:
            self.length += 1
            if len(self._last) == self._before:
                self._ends[self._last].add(token)
            # With size 1 nothing stands before, and [-0:] would be everything.
            self._last = (*self._last, token)[-self._before :] if self._before else ()

    def banned(self) -> Collection[int]:
        """Tokens that would end a sequence for the second time; valid until the next `extend`."""
        return self._ends.get(self._last, frozenset())
