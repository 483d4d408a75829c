"""The time of a replay: it stands still, then runs at a speed, or follows the trades that were sent."""

import time
from collections.abc import Callable

from simulator.notation import NS


class ReplayClock:
    """Unix time in nanoseconds within a replay.

    Args:
        start_ns: The time at which it stands until :meth:`run`.
        speed: Seconds of history per second; None for as fast as possible, where only :meth:`advance` moves it.
        seconds: A clock that never goes back.
    """

    def __init__(self, start_ns: int, speed: float | None, seconds: Callable[[], float] = time.monotonic) -> None:
        self._speed = speed
        self._seconds = seconds
        self._reached_ns = start_ns
        self._runs_since: float | None = None

    @property
    def is_running(self) -> bool:
        """False before :meth:`run` and after :meth:`stop`."""
        return self._runs_since is not None

    def __call__(self) -> int:
        if self._runs_since is None or self._speed is None:
            return self._reached_ns
        return self._reached_ns + int((self._seconds() - self._runs_since) * self._speed * NS)

    def run(self) -> None:
        """Go on from where it stands."""
        if self._runs_since is None:
            self._runs_since = self._seconds()

    def stop(self) -> None:
        """Stand still."""
        self._reached_ns, self._runs_since = self(), None

    def advance(self, time_ns: int) -> None:
        """Without a speed, move on to this time."""
        if self._speed is None:
            self._reached_ns = max(self._reached_ns, time_ns)

    def seconds_until(self, time_ns: int) -> float:
        """How long it takes to get there while the clock runs; 0 if it is there, or without a speed."""
        return 0.0 if self._speed is None else max(time_ns - self(), 0) / NS / self._speed
