"""What one key may ask of models in a minute. Counted in memory, so an api that begins again forgets it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from hone_api.errors import ApiError, too_fast
from hone_api.keys import Caller
from hone_api.metering.window import MINUTE, Window, shown
from hone_api.settings import Limits

_TYPICAL = 256.0
"""Tokens of an answer without a limit of its own, until the key has had some; then as many as those had."""
_WEIGHT = 0.2
"""Of the newest in that mean."""
_SOON = 1.0
"""Seconds after which a request may come again that waits for what others have reserved and may not use."""
_MOST = 10_000


@dataclass
class _Counts:
    """Of one key."""

    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    reserved: int = 0
    """Tokens of requests under way."""
    typical: float = _TYPICAL

    def is_idle(self, now: float) -> bool:
        return not (self.reserved or self.requests.used(now) or self.tokens.used(now))


@dataclass
class Admitted:
    """A request that goes on. `headers` say what is left beside it."""

    counts: _Counts
    reserved: int
    answers: int
    headers: dict[str, str]
    clock: Callable[[], float]

    def settle(self, used: int, completion: int | None) -> None:
        """Once, at its end: gives back what was reserved, and counts what was used.

        `completion` are the tokens of its answers together; None: it had none.
        """
        self.counts.reserved -= self.reserved
        if used:
            self.counts.tokens.add(used, self.clock())
        if completion is not None:
            self.counts.typical += _WEIGHT * (completion / self.answers - self.counts.typical)


class Rates:
    """Of all keys."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._keys: dict[str, _Counts] = {}

    def check(self, caller: Caller) -> None:
        """Before anything is done for a request: whether the key may have one at all. It counts nothing.

        Raises ApiError (429).
        """
        now = self._clock()
        if refused := _refusal(self._counts(caller.key_id, now), now, *self._most(caller), 0):
            raise refused

    def admit(self, caller: Caller, prompt: int, answer: int | None, answers: int = 1) -> Admitted:
        """For a prompt of so many tokens by estimate, and so many answers of so many at most each.

        Raises ApiError (429), with what OpenAI's clients look at in its headers.
        """
        now = self._clock()
        most_requests, most_tokens = self._most(caller)
        counts = self._counts(caller.key_id, now)
        wanted = prompt + answers * (int(counts.typical) if answer is None else answer)
        if most_tokens and answer is None:
            # What nobody asked for is no reason to refuse for ever.
            wanted = max(prompt, min(wanted, most_tokens))
        if refused := _refusal(counts, now, most_requests, most_tokens, wanted):
            raise refused
        if most_requests:
            counts.requests.add(1, now)
        counts.reserved += wanted
        headers = _headers(counts, now, most_requests, most_tokens)
        return Admitted(counts, wanted, answers, headers, self._clock)

    def _most(self, caller: Caller) -> tuple[int | None, int | None]:
        """Requests and tokens in a minute."""
        return (
            _limit(caller.requests_per_minute, self._limits.requests_per_minute),
            _limit(caller.tokens_per_minute, self._limits.tokens_per_minute),
        )

    def _counts(self, key_id: str, now: float) -> _Counts:
        if key_id not in self._keys:
            if len(self._keys) >= _MOST:
                self._keys = {name: each for name, each in self._keys.items() if not each.is_idle(now)}
            self._keys[key_id] = _Counts()
        return self._keys[key_id]


def _limit(own: int | None, default: int | None) -> int | None:
    """None: as many as come."""
    return default if own is None else own or None


def _refusal(
    counts: _Counts, now: float, most_requests: int | None, most_tokens: int | None, wanted: int
) -> ApiError | None:
    def told(kind: Literal["requests", "tokens"], limit: int, used: int, asked: int, wait: float) -> ApiError:
        head = {"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
        message = (
            f"Rate limit reached for {kind} per min: Limit {limit}, Used {used}, Requested {asked}. "
            f"Please try again in {shown(wait)}."
        )
        return too_fast(message, kind, head | _headers(counts, now, most_requests, most_tokens))

    if most_tokens and wanted > most_tokens:
        message = (
            f"Request too large for tokens per min: Limit {most_tokens}, Requested {wanted}. "
            "The input or the limit of output tokens must be reduced in order to run successfully."
        )
        return too_fast(message, "tokens", _headers(counts, now, most_requests, most_tokens), ever=False)
    if most_requests and (used := counts.requests.used(now)) >= most_requests:
        wait = counts.requests.until_free(used + 1 - most_requests, now)
        return told("requests", most_requests, used, 1, wait)
    if most_tokens and (used := counts.tokens.used(now)) + counts.reserved + wanted > most_tokens:
        over = used + wanted - most_tokens
        wait = counts.tokens.until_free(over, now) if over > 0 else _SOON
        return told("tokens", most_tokens, used + counts.reserved, wanted, wait)
    return None


def _headers(
    counts: _Counts, now: float, most_requests: int | None, most_tokens: int | None
) -> dict[str, str]:
    told = {}
    for kind, most, window, reserved in (
        ("requests", most_requests, counts.requests, 0),
        ("tokens", most_tokens, counts.tokens, counts.reserved),
    ):
        if most:
            left = max(0, most - window.used(now) - reserved)
            told[f"x-ratelimit-limit-{kind}"] = str(most)
            told[f"x-ratelimit-remaining-{kind}"] = str(left)
            told[f"x-ratelimit-reset-{kind}"] = shown(MINUTE if reserved else window.until_empty(now))
    return told
