"""How fast an answer came: by the server's count of tokens, or else by the pieces that arrived."""

import time
from dataclasses import dataclass


@dataclass
class Pace:
    """Times of one answer, on the monotonic clock."""

    started: float | None = None
    """When the question was sent. None: not yet."""

    first: float | None = None
    """When the first piece came. None: none has come."""

    last: float | None = None
    """When something came last. None: nothing has come."""

    pieces: int = 0

    def start(self) -> None:
        """The question is about to be sent; later calls change nothing."""
        if self.started is None:
            self.started = time.monotonic()

    def count(self) -> None:
        """A piece of the answer came."""
        self.pieces += 1
        self.last = time.monotonic()
        self.first = self.last if self.first is None else self.first

    def end(self) -> None:
        """The answer is complete."""
        self.last = time.monotonic()

    @property
    def seconds(self) -> float | None:
        """From the question to what came last; None: nothing has come."""
        return self._since_start(self.last)

    @property
    def first_seconds(self) -> float | None:
        """From the question to the first piece; None: none has come."""
        return self._since_start(self.first)

    def told(self, tokens: int | None) -> str | None:
        """The pace in words; None: no piece came. `tokens` is the server's count; None: it sent none."""
        if self.seconds is None or self.first_seconds is None:
            return None
        count, unit = (self.pieces, "piece") if tokens is None else (tokens, "token")
        rate = f" ({_figure(count / self.seconds)} {unit}s/s)" if self.seconds else ""
        return (
            f"{count} {unit}{'' if count == 1 else 's'} in {_figure(self.seconds)} s{rate}, "
            f"first after {_figure(self.first_seconds)} s"
        )

    def _since_start(self, moment: float | None) -> float | None:
        return None if moment is None or self.started is None else moment - self.started


def _figure(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
