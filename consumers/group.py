"""A consumer in a consumer group: reading, acknowledging, reclaiming, trimming. Redis only; no decoding."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

_PAGE = 500  # pending entries that one command lists or takes over


class RawEntry(Struct, frozen=True):
    """An entry as Redis returns it. If it was deleted while pending, it has no fields."""

    stream: str
    id: bytes
    fields: dict[bytes, bytes]


class GroupReader:
    """Reads some streams as one consumer of one group.

    The group starts at the beginning of each stream, so that entries published before it existed are read
    too. The name must be stable: after a crash the same name gets its unacknowledged entries again.
    """

    def __init__(self, redis: Redis, *, group: str, consumer: str, streams: Sequence[str]) -> None:
        self._redis = redis
        self._group = group
        self._consumer = consumer
        self._streams = tuple(streams)
        self._own_pending: dict[str, bytes] = {}
        self.read_own_pending_again()

    def read_own_pending_again(self) -> None:
        """Make the next read return this consumer's unacknowledged entries, as after a start or a lost connection."""
        self._own_pending = dict.fromkeys(self._streams, b"0")

    async def ensure_groups(self) -> None:
        """Create the group on each stream, and the stream if it does not exist."""
        for stream in self._streams:
            try:
                await self._redis.xgroup_create(stream, self._group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read(self, *, count: int, block_ms: int) -> list[RawEntry]:
        """Return this consumer's pending entries first, then new ones; empty if none arrives in ``block_ms``."""
        if self._own_pending:
            return await self._read_own_pending(count)
        return await self._read_group(dict.fromkeys(self._streams, b">"), count, block_ms)

    async def _read_own_pending(self, count: int) -> list[RawEntry]:
        entries = await self._read_group(self._own_pending, count, None)
        last = {entry.stream: entry.id for entry in entries}  # per stream, as entries come in order
        self._own_pending = {stream: last[stream] for stream in self._own_pending if stream in last}
        return entries

    async def _read_group(self, after: dict[str, bytes], count: int, block_ms: int | None) -> list[RawEntry]:
        streams: dict[Any, Any] = dict(after)
        answer = await self._redis.xreadgroup(
            self._group,
            self._consumer,
            streams,
            count=count,
            block=None if block_ms is None else max(block_ms, 1),  # 0 would wait for ever
        )
        return [
            RawEntry(stream.decode(), id_, fields or {}) for stream, entries in answer or () for id_, fields in entries
        ]

    async def take_over(self) -> None:
        """Make the pending entries of all other consumers of the group this consumer's own, and read them next."""
        for stream in self._streams:
            after = "-"
            while True:
                page = await self._redis.xpending_range(stream, self._group, min=after, max="+", count=_PAGE)
                ids = [entry["message_id"] for entry in page if entry["consumer"] != self._consumer.encode()]
                if ids:
                    await self._redis.xclaim(stream, self._group, self._consumer, 0, ids, justid=True)
                if len(page) < _PAGE:
                    break
                after = f"({page[-1]['message_id'].decode()}"
        self.read_own_pending_again()

    async def reclaim(self, *, idle_s: float, count: int) -> list[RawEntry]:
        """Take over entries of all streams that have been pending for ``idle_s`` without an acknowledgement."""
        entries: list[RawEntry] = []
        for stream in self._streams:
            cursor = b"0-0"
            while True:
                cursor, claimed, _deleted = await self._redis.xautoclaim(
                    stream, self._group, self._consumer, int(idle_s * 1000), start_id=cursor, count=count
                )
                entries += [RawEntry(stream, id_, fields or {}) for id_, fields in claimed if id_ is not None]
                if cursor == b"0-0" or len(entries) >= count:
                    break
        return entries

    async def acknowledge(self, ids: Iterable[tuple[str, bytes]]) -> None:
        """Acknowledge these entries, given by stream and id."""
        by_stream: dict[str, list[bytes]] = {}
        for stream, id_ in ids:
            by_stream.setdefault(stream, []).append(id_)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for stream, done in by_stream.items():
                pipeline.xack(stream, self._group, *done)
            await pipeline.execute()

    async def trim(self) -> int:
        """Delete the entries that every group of their stream has acknowledged; return how many."""
        return sum([await trim(self._redis, stream) for stream in self._streams])


async def trim(redis: Redis, stream: str) -> int:
    """Delete the entries that every group has acknowledged, and no others; return how many.

    By MINID: a MAXLEN would also drop unread entries.
    """
    floors = []
    for group in await redis.xinfo_groups(stream):
        oldest_pending = (await redis.xpending(stream, group["name"]))["min"] if group["pending"] else None
        if oldest_pending is not None:
            floors.append(_parsed(oldest_pending))
        else:  # all entries up to last-delivered-id are acknowledged, some perhaps since xinfo_groups
            milliseconds, sequence = _parsed(group["last-delivered-id"])
            floors.append((milliseconds, sequence + 1))
    if not floors:
        return 0
    milliseconds, sequence = min(floors)
    return int(await redis.xtrim(stream, minid=f"{milliseconds}-{sequence}", approximate=False))


def _parsed(id_: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = id_.partition(b"-")
    return int(milliseconds), int(sequence or 0)
