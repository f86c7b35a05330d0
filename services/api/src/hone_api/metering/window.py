"""What was used in the last minute.

The library `limits`, which hone-server counts with, does not fit here: no strategy of it gives back what was
reserved and not used, its exact one keeps an entry for each token, and its fixed one lets twice a minute's
tokens pass where two minutes meet.
"""

from collections import deque

MINUTE = 60.0
_SLOT = 0.5
"""What was used within it goes at once: so a minute is up to half a second too long, and never too short."""


class Window:
    """Amounts, by the half second in which they were used. Times are of a clock that only goes on."""

    def __init__(self) -> None:
        self._slots: deque[list[float]] = deque()
        self._used = 0

    def add(self, amount: int, now: float) -> None:
        gone = (now // _SLOT + 1) * _SLOT + MINUTE
        if self._slots and self._slots[-1][0] == gone:
            self._slots[-1][1] += amount
        else:
            self._slots.append([gone, amount])
        self._used += amount

    def used(self, now: float) -> int:
        while self._slots and self._slots[0][0] <= now:
            self._used -= int(self._slots.popleft()[1])
        return self._used

    def until_free(self, amount: int, now: float) -> float:
        """Seconds until so much of what is used counts no more, or all of it."""
        left = amount
        for gone, used in self._slots:
            left -= int(used)
            if left <= 0:
                return max(0.0, gone - now)
        return self.until_empty(now)

    def until_empty(self, now: float) -> float:
        return max(0.0, self._slots[-1][0] - now) if self._slots else 0.0


def shown(seconds: float) -> str:
    """As OpenAI writes a duration: `0s`, `6ms`, `1.5s`, `1m0s`."""
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    told = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{told}" if minutes else told
