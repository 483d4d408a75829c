"""One rate limit for all who call Kraken's REST: kept in Redis for many processes, or in memory for one.

Kraken limits Trades and OHLC for each address and pair, the rest for each address. No figure is published. Seen:
about one call a second is safe for a while, in a long run 1.5 s apart was refused and 3 s was not; past the limit
Kraken refuses for some seconds, and longer if one persists.

So calls for a pair begin a second apart. A refusal makes everybody pause, longer with each one in a row, and from
then on calls for that pair are spaced wider; a long run of answers narrows them again, step by step.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from kraken_history.errors import KrakenPaused, ServiceUnavailable
from kraken_history.kraken.rest import Refusal

FIRST_BACKOFF_S = 5.0
LONGEST_BACKOFF_S = 60.0
JITTER = 0.25
"""A pause is up to this part longer, so that those whom one trouble stopped do not come back at one time."""

WIDER = 1.5
"""Spacing grows by this factor with each refusal for asking too often …"""
NARROWER = 0.9
"""… and shrinks by this one …"""
NARROWED_AFTER = 60
"""… with each run of so many answers."""

LONGEST_WAIT_S = 90.0
"""Whoever would have to wait longer, as in a lockout, is told so instead."""

_UNKNOWN_REFUSAL = Refusal()
_FORGOTTEN_AFTER_S = 300.0  # refusals and spacing of a pair that nobody calls for


class Pacing(Struct, frozen=True):
    """The figures of a limiter.

    Attributes:
        spacing_s: Between two calls for the same pair.
        total_spacing_s: Between any two calls.
        slowest_spacing_s: What the spacing of a pair grows to, at most, while Kraken refuses.
    """

    spacing_s: float = 1.0
    total_spacing_s: float = 0.25
    slowest_spacing_s: float = 4.0
    first_backoff_s: float = FIRST_BACKOFF_S
    longest_backoff_s: float = LONGEST_BACKOFF_S

    @property
    def poll_jitter_s(self) -> float:
        """Spreads those who wait for the same slot, at hardly any cost."""
        return min(0.01, self.spacing_s / 50)


# Takes the slot if both the pair and the address are free, else says how many milliseconds are missing.
# Nothing is reserved ahead: a pair that has to wait does not hold up the others.
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
    """Spaces the calls of every process that shares this Redis."""

    def __init__(self, redis: Redis, pacing: Pacing | None = None) -> None:
        self._pacing = pacing or Pacing()
        self._take = redis.register_script(_TAKE)
        self._refused = redis.register_script(_REFUSED)
        self._answered = redis.register_script(_ANSWERED)

    async def wait_for_turn(self, pair: str) -> None:
        """Return when the next call for this pair may go out, having taken its slot.

        Raises:
            KrakenPaused: That is more than :data:`LONGEST_WAIT_S` away.
            ServiceUnavailable: Redis does not answer, so nobody knows whose turn it is.
        """
        spacings = [_ms(self._pacing.spacing_s), _ms(self._pacing.total_spacing_s)]
        # Polling, because the other waiters are in other processes.
        while wait_ms := int(await _run(self._take, _keys(pair), spacings)):
            await _sleep(wait_ms / 1000, pair, self._pacing)

    async def note_refusal(self, pair: str, refusal: Refusal = _UNKNOWN_REFUSAL) -> float:
        """Kraken did not answer a call for this pair: nobody calls for it for a while; return the seconds."""
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
        return int(await _run(self._refused, _keys(pair), arguments)) / 1000

    async def note_success(self, pair: str) -> None:
        """Kraken answered: the next refusal starts again with a short pause."""
        arguments = [_ms(self._pacing.spacing_s), NARROWED_AFTER, NARROWER, _ms(_FORGOTTEN_AFTER_S)]
        await _run(self._answered, [_keys(pair)[2]], arguments)


async def _run(script: AsyncScript, keys: Sequence[str], arguments: Sequence[float]) -> Any:
    try:
        return await script(keys=keys, args=arguments)
    except (RedisError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise ServiceUnavailable(f"the Redis that keeps the rate limit does not answer ({reason})") from error


def _keys(pair: str) -> list[str]:
    """When the pair is free, when the address is, and the pair's refusals and spacing; on one node of a cluster."""
    return [f"kraken:limit:{{rest}}:{pair}", "kraken:limit:{rest}", f"kraken:limit:{{rest}}:{pair}:pace"]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def _sleep(wait_s: float, pair: str, pacing: Pacing) -> None:
    if wait_s > LONGEST_WAIT_S:
        raise KrakenPaused(pair, wait_s)
    await asyncio.sleep(wait_s + random.uniform(0, pacing.poll_jitter_s))


class _PairPace:
    """What is remembered of one pair."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.refusals = 0
        self.spacing_s = 0.0
        self.answers = 0


class LocalRateLimiter:
    """The same for one process that has no Redis. Processes that each have one of these exceed the limit together.

    Args:
        clock: Seconds that never go back.
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
