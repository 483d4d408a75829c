"""One rate limit for all processes, kept in Redis.

Kraken limits Trades and OHLC for each address and pair, the rest for each address; about one call a second is
safe. Past that it refuses for some seconds, and longer if one persists. (Kraken's support page on public calls;
no figure is published.)
"""

import asyncio
import random

from redis.asyncio import Redis

FIRST_BACKOFF_S = 5.0
LONGEST_BACKOFF_S = 60.0

# Takes the slot if both the pair and the address are free, else says how many milliseconds are missing.
# Nothing is reserved ahead: a pair that has to wait does not hold up the others.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local free = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(redis.call('GET', KEYS[2]) or '0'))
if free > now then return free - now end
redis.call('SET', KEYS[1], now + ARGV[1], 'PX', ARGV[1] + 1000)
redis.call('SET', KEYS[2], now + ARGV[2], 'PX', ARGV[2] + 1000)
return 0
"""

# Each refusal in a row doubles the pause of the pair; the count is forgotten after five minutes or a success.
_REFUSED = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local times = redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], 300000)
local pause = math.min(ARGV[1] * 2 ^ (times - 1), tonumber(ARGV[2]))
redis.call('SET', KEYS[1], now + pause, 'PX', pause + 1000)
return pause
"""


class RateLimiter:
    """Spaces the calls of every process that shares this Redis.

    Args:
        spacing_s: Between two calls for the same pair.
        total_spacing_s: Between any two calls.
    """

    def __init__(self, redis: Redis, *, spacing_s: float = 1.0, total_spacing_s: float = 0.25) -> None:
        self._redis = redis
        self._spacing_ms = round(spacing_s * 1000)
        self._total_spacing_ms = round(total_spacing_s * 1000)
        self._take = redis.register_script(_TAKE)
        self._refused = redis.register_script(_REFUSED)

    async def wait_for_turn(self, pair: str) -> None:
        """Return when the next call for this pair may go out, having taken its slot."""
        keys = [f"kraken:limit:{{rest}}:{pair}", "kraken:limit:{rest}"]
        # Polling, because the other waiters are in other processes.
        while wait_ms := int(  # noqa: ASYNC110
            await self._take(keys=keys, args=[self._spacing_ms, self._total_spacing_ms])
        ):
            await asyncio.sleep(wait_ms / 1000 + random.uniform(0, 0.01))

    async def note_refusal(self, pair: str) -> float:
        """Kraken refused a call for this pair: nobody calls for it for a while; return the seconds."""
        keys = [f"kraken:limit:{{rest}}:{pair}", f"kraken:limit:{{rest}}:{pair}:refused"]
        pause_ms = await self._refused(keys=keys, args=[int(FIRST_BACKOFF_S * 1000), int(LONGEST_BACKOFF_S * 1000)])
        return int(pause_ms) / 1000

    async def note_success(self, pair: str) -> None:
        """Kraken answered: the next refusal starts again with a short pause."""
        await self._redis.delete(f"kraken:limit:{{rest}}:{pair}:refused")
