"""When the limiter gave its slots, by the clock of the Redis that keeps it."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from redis.asyncio import Redis

TOTAL = "kraken:limit:{rest}"
_END = "that is all"


@asynccontextmanager
async def noted_slots(redis_url: str) -> AsyncIterator[dict[str, list[int]]]:
    """By pair, and under :data:`TOTAL` for all of them, the milliseconds of the slots; filled in at the end.

    Taken from what the limiter's script keeps, so that they are exact however late a caller hears of its turn. For
    as long as no call is refused: then the same keys are set to later times.
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
    """No two slots are closer than they may be; there may be one alone, as for a question that is asked once."""
    assert all(later - earlier >= spacing_s * 1000 for earlier, later in pairwise(sorted(slots_ms))), slots_ms
