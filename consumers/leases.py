"""Leases of shards: which consumer reads which shard. Redis only.

A lease is a key that expires, and whose value is the consumer that reads the shard. It spares consumers from waiting
for one another's locks; nothing depends on it. If two consumers read one shard for a while, the ledger's lock still
decides which trades are new. Each command touches one key, as a cluster of Redis requires, and only Redis' own clock
counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.stream.shards import consumers_key


def quota(name: str, held: Mapping[str, int], shards: int) -> int:
    """How many of the shards a consumer should read.

    All consumers compute the same: each reads as many as the others, or one more. Those that hold the most get the
    one more, so that no shard moves without need.

    Args:
        held: By consumer that is able to store: number of the shards that it holds.
    """
    if name not in held:
        return 0
    order = sorted(held, key=lambda each: (-held[each], each))
    share, rest = divmod(shards, len(held))
    return share + (order.index(name) < rest)


class Leases:
    """The leases of one consumer.

    Args:
        name: The consumer; if another process has the same name, both believe that they hold its leases.
        lasts_s: After so long without a renewal a lease is free.
    """

    def __init__(self, redis: Redis, *, name: str, shards: int, lasts_s: float = 5.0) -> None:
        self._redis = redis
        self._name = name
        self._shards = shards
        self._lasts_ms = str(int(lasts_s * 1000))
        self._prefix = prefix_of(redis)

    async def report(self, *, is_able: bool) -> list[str]:
        """Report whether this consumer is able to store; return the names of those that are."""
        names = await self._run(_REPORT, consumers_key(self._prefix), self._lasts_ms if is_able else "0")
        return [name.decode() for name in names]

    async def renew(self) -> dict[int, str]:
        """Renew the leases that this consumer holds; return the holder of each shard that has one."""
        holders = {shard: await self._run(_RENEW, self._key(shard), self._lasts_ms) for shard in range(self._shards)}
        return {shard: holder.decode() for shard, holder in holders.items() if holder is not None}

    async def take(self, shard: int) -> bool:
        """Take a free lease; return False if another consumer holds it."""
        return bool(await self._redis.set(self._key(shard), self._name, nx=True, px=int(self._lasts_ms)))

    async def give_back(self, shards: Iterable[int]) -> None:
        """Give leases back that this consumer holds."""
        for shard in shards:
            await self._run(_GIVE_BACK, self._key(shard))

    async def leave(self) -> None:
        """Report that this consumer has ended."""
        await self.report(is_able=False)

    def _key(self, shard: int) -> str:
        return lease_key(shard, self._prefix)

    async def _run(self, script: str, key: str, *arguments: str) -> Any:
        return await self._redis.eval(script, 1, key, self._name, *arguments)  # type: ignore[misc]


def lease_key(shard: int, prefix: str) -> str:
    """Name of the key of a shard's lease. In a cluster it is in the slot of the shard's streams."""
    return f"{prefix}:lease:{{{shard}}}"


def held_by(name: str, holders: Mapping[int, str]) -> list[int]:
    """The shards that a consumer holds."""
    return [shard for shard, holder in holders.items() if holder == name]


def held_counts(names: Sequence[str], holders: Mapping[int, str]) -> dict[str, int]:
    """By consumer: the number of shards that it holds."""
    return {name: len(held_by(name, holders)) for name in names}


_REPORT = """
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    if ARGV[2] == '0' then
        redis.call('ZREM', KEYS[1], ARGV[1])
    else
        redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
        redis.call('PEXPIRE', KEYS[1], ARGV[2])
    end
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    return redis.call('ZRANGE', KEYS[1], 0, -1)
"""

_RENEW = """
    local holder = redis.call('GET', KEYS[1])
    if holder == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
    return holder
"""

_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
