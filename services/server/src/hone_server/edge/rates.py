"""What one key may ask for in a time."""

import math
import time

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from hone_server.edge.refusal import Refusal
from hone_server.limits import RateLimits


class Rates:
    """Counts in memory: a server that starts again forgets, and each server counts for itself."""

    def __init__(self, settings: RateLimits) -> None:
        storage = MemoryStorage()
        self._requests = _parse(settings.requests)
        self._tokens = _parse(settings.tokens)
        self._sliding = SlidingWindowCounterRateLimiter(storage)
        # Tokens are counted when they were made, also above the limit, which no other strategy does.
        self._fixed = FixedWindowRateLimiter(storage)

    async def admit(self, key: str) -> None:
        """Raises Refusal when the key's requests or tokens are used up."""
        if self._tokens and not await self._fixed.test(self._tokens, "tokens", key):
            raise await _refusal(self._fixed, self._tokens, "tokens", key)
        if self._requests and not await self._sliding.hit(self._requests, "requests", key):
            raise await _refusal(self._sliding, self._requests, "requests", key)

    async def spend(self, key: str, tokens: int) -> None:
        if self._tokens and tokens:
            await self._fixed.hit(self._tokens, "tokens", key, cost=tokens)


def _parse(text: str | None) -> RateLimitItem | None:
    return parse(text) if text else None


async def _refusal(limiter: RateLimiter, limit: RateLimitItem, kind: str, key: str) -> Refusal:
    stats = await limiter.get_window_stats(limit, kind, key)
    seconds = max(1, math.ceil(stats.reset_time - time.time()))
    message = (
        f"Rate limit reached: {limit.amount} {kind} per {limit.get_expiry()} s; try again in {seconds} s"
    )
    return Refusal(message, "rate_limit_exceeded", status=429, kind=kind, retry_after=seconds)
