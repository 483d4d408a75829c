"""The clocks of other hosts, and how far that of this machine differs from them."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from redis.asyncio import Redis

from kraken_history.clock import CLOCK_IS_OFF, Clock, hint_of_clocks, utc_now
from kraken_history.records import utc_from_unix_ns
from kraken_history.runtime.logs import get_logger

REDIS = "redis"
KRAKEN = "kraken"

_OFF_S = CLOCK_IS_OFF.total_seconds()

_log = get_logger("clocks")


class OtherClock:
    """The clock of another host, as its answers tell it.

    Between two answers it advances with this process' monotonic clock, so it does not matter if somebody sets the
    clock of this machine. Before the first answer it is the clock of this machine.

    Args:
        blur: How far the two clocks may differ before this machine's is not believed any more. Zero if the answers
            are exact, or if all hosts must agree on one clock.
        local: The clock of this machine.
        monotonic: In seconds.
    """

    def __init__(
        self,
        *,
        blur: timedelta = CLOCK_IS_OFF,
        local: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blur = blur
        self._local = local
        self._monotonic = monotonic
        self._told: datetime | None = None
        self._told_at_s = 0.0

    def note(self, told: datetime, *, asked_at_s: float | None = None) -> None:
        """Take the time from an answer that has just arrived.

        Args:
            asked_at_s: Monotonic time of the request; the answer was made half-way. None if it was not requested.
        """
        now_s = self._monotonic()
        self._told = told
        self._told_at_s = now_s if asked_at_s is None else (asked_at_s + now_s) / 2

    def now(self) -> datetime:
        """The other host's time; that of this machine, which is finer, unless its clock is off."""
        told, local = self._now_as_told(), self._local()
        return local if told is None or abs(local - told) <= self._blur else told

    @property
    def ahead_s(self) -> float | None:
        """Seconds by which the clock of this machine is ahead of the other; None before the first answer."""
        told = self._now_as_told()
        return None if told is None else (self._local() - told).total_seconds()

    def _now_as_told(self) -> datetime | None:
        return None if self._told is None else self._told + timedelta(seconds=self._monotonic() - self._told_at_s)


class Clocks:
    """The clocks of Redis and Kraken, as one process knows them.

    Args:
        kraken: Kraken's clock, which somebody else notes; None if this process does not talk to Kraken.
    """

    def __init__(self, kraken: OtherClock | None = None) -> None:
        self.redis = OtherClock(blur=timedelta())
        self._of = {REDIS: self.redis} if kraken is None else {REDIS: self.redis, KRAKEN: kraken}
        self._off: set[str] = set()

    @property
    def ahead_s(self) -> dict[str, float]:
        """By server that has told its time: seconds by which the clock of this machine is ahead."""
        ahead = {server: clock.ahead_s for server, clock in self._of.items()}
        return {server: round(seconds, 1) + 0.0 for server, seconds in ahead.items() if seconds is not None}

    async def ask(self, redis: Redis) -> None:
        """Ask Redis for its time.

        Raises:
            RedisError, OSError: As the client raises them.
        """
        asked_at_s = time.monotonic()
        seconds, microseconds = await redis.time()
        told = utc_from_unix_ns((seconds * 1_000_000 + microseconds) * 1_000)
        self.redis.note(told, asked_at_s=asked_at_s)

    def report(self) -> None:
        """Set the metric of each clock, and log if one is off now, or is right again."""
        from kraken_history.runtime import telemetry  # takes long to load, and a command has no metrics

        for server, seconds in self.ahead_s.items():
            telemetry.CLOCK_AHEAD.labels(server=server).set(seconds)
            is_off = abs(seconds) > _OFF_S
            if is_off and server not in self._off:
                _log.warning("clock_off", server=server, ahead_s=seconds, hint=hint_of_clocks({server: seconds}))
            elif not is_off and server in self._off:
                _log.info("clock_right_again", server=server)
            (self._off.add if is_off else self._off.discard)(server)
