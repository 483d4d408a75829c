"""The limit on REST calls: a burst, then a steady refill. A refused call costs nothing."""

import time
from collections.abc import Callable, Hashable

_MANY_BUCKETS = 10_000


class RateLimit:
    """Token buckets, one per key.

    Kraken publishes no number. Measured: about 30 calls pass at once, then one per second.

    Args:
        burst: Number of calls that pass at once.
        per_second: Further calls that pass per second after that.
        clock: Seconds that never go back.
    """

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._clock = clock
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, key: Hashable) -> bool:
        """If the key has calls left, count one and return True."""
        now = self._clock()
        if len(self._buckets) > _MANY_BUCKETS:
            self._forget_full_buckets(now)
        left = self._refilled(key, now)
        allowed = left >= 1.0
        self._buckets[key] = (left - allowed, now)
        return allowed

    def _refilled(self, key: Hashable, now: float) -> float:
        left, seen = self._buckets.get(key, (self._burst, now))
        return min(left + (now - seen) * self._per_second, self._burst)

    def _forget_full_buckets(self, now: float) -> None:
        self._buckets = {key: state for key, state in self._buckets.items() if self._refilled(key, now) < self._burst}
