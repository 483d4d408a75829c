"""The rate limit for calls of Kraken's REST API: kept in Redis for many processes, or in memory for one.

Kraken limits Trades and OHLC per address and pair, other endpoints per address. It publishes no figures. Observed:
one call per second is accepted for a while; in a long run, calls 1.5 s apart were refused and calls 3 s apart were
not. Above the limit Kraken refuses for some seconds, and for longer if the calls continue.

Therefore calls for a pair start a second apart. After a refusal all callers of the pair pause, longer with each refusal
in a row. If Kraken refused because of too many calls, calls for that pair are also spaced wider. A long run of answers
narrows the spacing again, step by step.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from kraken_history.errors import KrakenPaused, ServiceUnavailable
from kraken_history.kraken.pacing import Pacing
from kraken_history.kraken.rest import Refusal
from kraken_history.runtime.redis_connections import prefix_of

JITTER = 0.25
"""Largest fraction by which a pause is extended at random, so that paused callers do not all return at once."""

WIDER = 1.5
"""Factor by which spacing grows with each refusal because of too many calls."""
NARROWER = 0.9
"""Factor by which spacing shrinks after each run of :data:`NARROWED_AFTER` answers."""
NARROWED_AFTER = 60
"""Number of answers in a row after which spacing shrinks once."""

LONGEST_WAIT_S = 90.0
"""Longest wait for a turn, in seconds. If it would be longer, as in a lockout, ``KrakenPaused`` is raised instead."""

_UNKNOWN_REFUSAL = Refusal()
_FORGOTTEN_AFTER_S = 300.0  # a pair's refusals and spacing expire this long after its last call


# Takes the slot if both the pair and the address are free. Otherwise returns the remaining wait in milliseconds.
# No slot is reserved ahead, so a pair that has to wait does not delay the others.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local free = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(redis.call('GET', KEYS[2]) or '0'))
if free > now then return free - now end
local spacing = math.max(tonumber(redis.call('HGET', KEYS[3], 'spacing') or '0'), tonumber(ARGV[1]))
redis.call('SET', KEYS[1], now + spacing, 'PX', spacing + 1000)
redis.call('SET', KEYS[2], now + ARGV[2], 'PX', ARGV[2] + 1000)
return 0
"""

_REFUSED = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local times = redis.call('HINCRBY', KEYS[3], 'refusals', 1)
redis.call('HDEL', KEYS[3], 'answers')
if ARGV[5] == '1' then
    local spacing = math.max(tonumber(redis.call('HGET', KEYS[3], 'spacing') or '0'), tonumber(ARGV[7]))
    redis.call('HSET', KEYS[3], 'spacing', math.floor(math.min(spacing * ARGV[8], tonumber(ARGV[9]))))
end
redis.call('PEXPIRE', KEYS[3], ARGV[10])
local backoff = math.min(ARGV[1] * 2 ^ (times - 1), tonumber(ARGV[2]))
local pause = math.floor(math.max(backoff, tonumber(ARGV[4])) * ARGV[3])
for i = 1, 1 + ARGV[6] do
    local free = math.max(tonumber(redis.call('GET', KEYS[i]) or '0'), now + pause)
    redis.call('SET', KEYS[i], free, 'PX', free - now + 1000)
end
return pause
"""

_ANSWERED = """
if redis.call('EXISTS', KEYS[1]) == 0 then return end
redis.call('HDEL', KEYS[1], 'refusals')
local spacing = tonumber(redis.call('HGET', KEYS[1], 'spacing') or '0')
if spacing > 0 and redis.call('HINCRBY', KEYS[1], 'answers', 1) >= tonumber(ARGV[2]) then
    spacing = math.floor(spacing * ARGV[3])
    redis.call('HSET', KEYS[1], 'spacing', spacing, 'answers', 0)
end
if spacing <= tonumber(ARGV[1]) then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
"""


class RateLimiter:
    """Spaces the calls of all processes that share this Redis."""

    def __init__(self, redis: Redis, pacing: Pacing | None = None) -> None:
        self._redis = redis
        self._pacing = pacing or Pacing()
        self._take = redis.register_script(_TAKE)
        self._refused = redis.register_script(_REFUSED)
        self._answered = redis.register_script(_ANSWERED)

    async def wait_for_turn(self, pair: str) -> None:
        """Return when the next call for this pair may go out, having taken its slot.

        Raises:
            KrakenPaused: The turn is more than :data:`LONGEST_WAIT_S` away.
            ServiceUnavailable: Redis does not answer, so the limit is unknown.
        """
        spacings = [_ms(self._pacing.spacing_s), _ms(self._pacing.total_spacing_s)]
        # Polls, because other waiters are in other processes.
        while wait_ms := int(await _run(self._take, _keys(self._redis, pair), spacings)):
            await _sleep(wait_ms / 1000, pair, self._pacing)

    async def note_refusal(self, pair: str, refusal: Refusal = _UNKNOWN_REFUSAL) -> float:
        """Record a call that Kraken did not answer: pause all calls for this pair, and return the pause in seconds."""
        pacing = self._pacing
        arguments = [
            _ms(pacing.first_backoff_s),
            _ms(pacing.longest_backoff_s),
            1.0 + random.uniform(0, JITTER),
            _ms(refusal.pause_s),
            int(refusal.too_often),
            int(refusal.whole_address),
            _ms(pacing.spacing_s),
            WIDER,
            max(_ms(pacing.slowest_spacing_s), _ms(pacing.spacing_s)),
            _ms(_FORGOTTEN_AFTER_S),
        ]
        return int(await _run(self._refused, _keys(self._redis, pair), arguments)) / 1000

    async def note_success(self, pair: str) -> None:
        """Record an answer: the next refusal starts again with a short pause."""
        arguments = [_ms(self._pacing.spacing_s), NARROWED_AFTER, NARROWER, _ms(_FORGOTTEN_AFTER_S)]
        await _run(self._answered, [_keys(self._redis, pair)[2]], arguments)


async def _run(script: AsyncScript, keys: Sequence[str], arguments: Sequence[float]) -> Any:
    try:
        return await script(keys=keys, args=arguments)
    except (RedisError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise ServiceUnavailable(
            f"cannot use the rate limit in Redis ({reason}): check that Redis is running"
        ) from error


def _keys(redis: Redis, pair: str) -> list[str]:
    """Keys: when the pair is free, when the address is free, the pair's pace; all on one node of a cluster."""
    base = f"{prefix_of(redis)}:limit:{{rest}}"
    return [f"{base}:{pair}", base, f"{base}:{pair}:pace"]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def _sleep(wait_s: float, pair: str, pacing: Pacing) -> None:
    if wait_s > LONGEST_WAIT_S:
        raise KrakenPaused(pair, wait_s)
    await asyncio.sleep(wait_s + random.uniform(0, pacing.poll_jitter_s))


class _PairPace:
    """The state of one pair."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.refusals = 0
        self.spacing_s = 0.0
        self.answers = 0


class LocalRateLimiter:
    """The limiter of one process without Redis. Several processes that each use one exceed the limit together.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, pacing: Pacing | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pacing = pacing or Pacing()
        self._clock = clock
        self._pairs: dict[str, _PairPace] = {}
        self._free_at = 0.0

    async def wait_for_turn(self, pair: str) -> None:
        """As :meth:`RateLimiter.wait_for_turn`."""
        while (wait_s := self._take(pair)) > 0:
            await _sleep(wait_s, pair, self._pacing)

    def _take(self, pair: str) -> float:
        pace, now = self._pace(pair), self._clock()
        free_at = max(pace.free_at, self._free_at)
        if free_at > now:
            return free_at - now
        pace.free_at = now + max(pace.spacing_s, self._pacing.spacing_s)
        self._free_at = now + self._pacing.total_spacing_s
        return 0.0

    async def note_refusal(self, pair: str, refusal: Refusal = _UNKNOWN_REFUSAL) -> float:
        """As :meth:`RateLimiter.note_refusal`."""
        pacing, pace, now = self._pacing, self._pace(pair), self._clock()
        backoff_s = min(pacing.first_backoff_s * 2.0 ** min(pace.refusals, 60), pacing.longest_backoff_s)
        pace.refusals += 1
        pace.answers = 0
        if refusal.too_often:
            widest = max(pacing.slowest_spacing_s, pacing.spacing_s)
            pace.spacing_s = min(max(pace.spacing_s, pacing.spacing_s) * WIDER, widest)
        pause_s = max(backoff_s, refusal.pause_s) * (1.0 + random.uniform(0, JITTER))
        pace.free_at = max(pace.free_at, now + pause_s)
        if refusal.whole_address:
            self._free_at = max(self._free_at, now + pause_s)
        return pause_s

    async def note_success(self, pair: str) -> None:
        """As :meth:`RateLimiter.note_success`."""
        pace = self._pace(pair)
        pace.refusals = 0
        pace.answers += 1
        if pace.answers >= NARROWED_AFTER:
            pace.answers = 0
            pace.spacing_s *= NARROWER

    def _pace(self, pair: str) -> _PairPace:
        return self._pairs.setdefault(pair, _PairPace())
