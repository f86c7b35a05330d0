"""How far a long piece of work is."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from hone_contract.events import Reporter

# Without a terminal there is no bar to redraw, so a line is told this often, in seconds.
_TELL_EVERY = 15.0


class Progress:
    """A bar with rate and time left on a terminal; anywhere else an event with them now and then."""

    def __init__(self, what: str, unit: str, total: int, reporter: Reporter) -> None:
        self.what, self.unit, self.total, self.reporter = what, unit, total, reporter
        self.done = 0
        self.began = self.told = time.monotonic()
        self.bar = tqdm(total=total, unit=f" {unit}", desc=what, disable=not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        self.bar.update(count)
        now = time.monotonic()
        if sys.stderr.isatty() or now - self.told < _TELL_EVERY:
            return
        self.told = now
        rate = self.done / max(1e-9, now - self.began)
        left = (self.total - self.done) / max(1e-9, rate)
        self.reporter.tell(
            "progress",
            f"{self.what}: {self.done} of {self.total} {self.unit}, {rate:.1f} a second, {left:.0f} s left",
            done=self.done,
            total=self.total,
            rate=rate,
            seconds_left=left,
        )
