"""The times of the limiter's slots, by the clock of its Redis."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from redis.asyncio import Redis

TOTAL = "kraken:limit:{rest}"
_END = "that is all"


@asynccontextmanager
async def noted_slots(redis_url: str) -> AsyncIterator[dict[str, list[int]]]:
    """Pair, or :data:`TOTAL` for all pairs, → the slots' times in milliseconds; filled in at the end.

    The times come from the keys of the limiter's script, so they are exact even if a caller is late for its turn. If a
    call is refused, the same keys are set to later times, so this works only without refusals.
    """
    slots: dict[str, list[int]] = defaultdict(list)
    async with Redis.from_url(redis_url) as redis, redis.monitor() as monitor:
        yield slots
        async with Redis.from_url(redis_url) as other:
            await other.echo(_END)
        while _END not in (said := await monitor.next_command())["command"]:
            match said["client_type"], said["command"].split():
                case "lua", ["SET", str(key), free_at, "PX", kept_ms] if key.startswith(TOTAL):
                    slots[key.removeprefix(f"{TOTAL}:")].append(int(free_at) - int(kept_ms) + 1000)


def assert_spaced(slots_ms: list[int], spacing_s: float) -> None:
    """No two slots are closer than ``spacing_s``. A single slot is allowed, as for a request made once."""
    assert all(later - earlier >= spacing_s * 1000 for earlier, later in pairwise(sorted(slots_ms))), slots_ms
