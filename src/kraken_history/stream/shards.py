"""The number of shards into which the streams of one Redis are divided.

The producer decides by this number into which stream a symbol goes, and the consumers which streams there are. If they
disagree, entries wait where nobody reads. So the number is kept in Redis, and every publisher and consumer compares its
own with it, at its start and while it runs.
"""

from collections.abc import AsyncIterator

from redis.asyncio import Redis

from kraken_history.errors import UsageError
from kraken_history.runtime.liveness import health_prefix
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.signs import ConsumerSign, ProducerSign
from kraken_history.stream.backlog import fetch_streams

_PAGE = 1000  # keys that one SCAN examines


class WrongShards(UsageError):
    """The number of shards of this process is not that of the streams.

    Attributes:
        shards: The number of this process.
        kept: That of the streams.
    """

    def __init__(self, shards: int, kept: int, why: str = "") -> None:
        super().__init__(
            f"STREAM_SHARDS is {shards}, but the streams in this Redis are divided into {kept}: set"
            f" STREAM_SHARDS={kept}. To change the number{f' ({why})' if why else ''}, stop the producers, let the"
            " consumers drain the streams, stop the consumers, and start everything with the new number"
        )
        self.shards, self.kept = shards, kept


def shards_key(prefix: str) -> str:
    """Name of the key that holds the number."""
    return f"{prefix}:shards"


def consumers_key(prefix: str) -> str:
    """Name of the key that lists the consumers that can store. It expires when there are none."""
    return f"{prefix}:consumers"


async def fetch_shards(redis: Redis) -> int | None:
    """The number of shards; None if no publisher or consumer has kept one yet."""
    kept = await redis.get(shards_key(prefix_of(redis)))
    return None if kept is None else int(kept)


async def keep_shards(redis: Redis, shards: int) -> None:
    """Keep the number of shards if there is none yet, or compare it. For each turn of a process that runs.

    Raises:
        WrongShards: Another number is kept.
    """
    kept = await fetch_shards(redis)
    if kept is None:
        await redis.set(shards_key(prefix_of(redis)), shards, nx=True)
        kept = await fetch_shards(redis)
    if kept is not None and kept != shards:
        raise WrongShards(shards, kept)


async def claim_shards(redis: Redis, shards: int) -> None:
    """As :func:`keep_shards`, but change the number if that is safe. For the start of a process.

    It is safe if each group has acknowledged every entry, and no producer or consumer runs. If one that leaves no sign
    of life runs none the less, it compares the numbers before it publishes, and ends.

    Raises:
        WrongShards: Another number is kept, and cannot be changed now.
    """
    try:
        await keep_shards(redis, shards)
    except WrongShards as error:
        async for why in _obstacles(redis):
            raise WrongShards(shards, error.kept, f"not possible now: {why}") from None
        await redis.eval(_CHANGE, 1, shards_key(prefix_of(redis)), str(error.kept), str(shards))  # type: ignore[misc]
        await keep_shards(redis, shards)


async def _obstacles(redis: Redis) -> AsyncIterator[str]:
    for kind in (ProducerSign, ConsumerSign):
        async for _ in redis.scan_iter(f"{health_prefix(redis)}{kind.service}:*", count=_PAGE):
            yield f"a {kind.service} is running"
    if await redis.exists(consumers_key(prefix_of(redis))):  # in a cluster, signs of life are in another Redis
        yield "a consumer is running"
    for state in await fetch_streams(redis):
        if not state.is_drained:
            yield f"{state.lag + state.pending} entries wait in {state.stream}"


_CHANGE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end"
