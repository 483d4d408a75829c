"""Dead letters: frames and entries that could not be decoded or stored, kept with the reason, replayed on command."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from msgspec import Struct
from redis.asyncio import Redis

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.websocket import Candles, Trades, decode_frame
from kraken_history.records import group_by_symbol, utc_from_unix_ns
from kraken_history.runtime import telemetry
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.stream import wire

WEBSOCKET = "websocket"
"""Origin of a dead letter that is a raw frame; otherwise the origin is the name of a stream."""

_log = telemetry.get_logger("dead-letters")


class DeadLetter(Struct, frozen=True):
    """One entry of the dead-letter stream.

    Attributes:
        id: Its id in the dead-letter stream.
        origin: The stream that it was read from, or ``websocket``.
        fields: The entry's fields, unchanged; a frame is under ``frame``.
    """

    id: str
    origin: str
    origin_id: str
    reason: str
    fields: Mapping[bytes, bytes]

    @property
    def died_at(self) -> datetime:
        """When it became a dead letter, by Redis' clock."""
        return utc_from_unix_ns(int(self.id.partition("-")[0]) * 1_000_000)


class DeadLetters:
    """The dead-letter stream of one Redis. If it is full, further letters are only counted and logged."""

    def __init__(self, redis: Redis, *, max_letters: int) -> None:
        self._redis = redis
        self._max_letters = max_letters
        self._prefix = prefix_of(redis)
        self._stream = wire.dead_letters_stream(self._prefix)

    async def put(self, origin: str, origin_id: str, reason: str, fields: Mapping[bytes, bytes]) -> bool:
        """Add an entry; return False if the stream is full."""
        kept = int(await self._redis.xlen(self._stream)) < self._max_letters
        if kept:
            letter: wire.Fields = {b"field:" + name: value for name, value in fields.items()}
            # A reason may quote half a surrogate pair, which UTF-8 cannot encode.
            letter |= {b"origin": origin, b"origin_id": origin_id, b"reason": reason[:1000].encode(errors="replace")}
            await self._redis.xadd(self._stream, letter)
        telemetry.DEAD_LETTERS.labels(kept=str(kept).lower()).inc()
        _log.error("dead_letter", origin=origin, origin_id=origin_id, reason=reason[:200], kept=kept)
        return kept

    async def put_frame(self, error: MalformedMessage) -> bool:
        """Add a frame of the WebSocket that could not be decoded."""
        return await self.put(WEBSOCKET, "", error.reason, {b"frame": error.payload})

    async def list(self) -> AsyncIterator[DeadLetter]:
        """All dead letters, oldest first."""
        after = "-"
        while page := await self._redis.xrange(self._stream, min=after, count=100):
            for id_, fields in page:
                yield _letter(id_.decode(), fields)
            after = f"({page[-1][0].decode()}"

    async def replay(self, letter: DeadLetter, *, shards: int) -> None:
        """Add an entry to its stream again, or decode a frame again and publish it; then delete the letter.

        Raises:
            MalformedMessage: The frame still cannot be decoded. The letter remains.
        """
        async with self._redis.pipeline(transaction=True) as pipeline:
            if letter.origin == WEBSOCKET:
                frame = decode_frame(letter.fields[b"frame"])
                for stream, fields in _entries_of(frame, shards, self._prefix):
                    pipeline.xadd(stream, fields)
            else:
                entry: wire.Fields = dict(letter.fields)
                pipeline.xadd(letter.origin, entry)
            pipeline.xdel(self._stream, letter.id)
            await pipeline.execute()


def _letter(id_: str, fields: Mapping[bytes, bytes]) -> DeadLetter:
    kept = {k.removeprefix(b"field:"): v for k, v in fields.items() if k.startswith(b"field:")}
    head = {k: fields.get(k, b"").decode(errors="replace") for k in (b"origin", b"origin_id", b"reason")}
    return DeadLetter(id_, head[b"origin"], head[b"origin_id"], head[b"reason"], kept)


def _entries_of(frame: object, shards: int, prefix: str) -> list[tuple[str, wire.Fields]]:
    if isinstance(frame, Trades):
        return [
            (wire.trades_stream(wire.shard_of(symbol, shards), prefix), wire.encode(trades))
            for symbol, trades in group_by_symbol(frame.trades).items()
        ]
    if isinstance(frame, Candles):
        return [
            (wire.candles_stream(wire.shard_of(symbol, shards), prefix), wire.encode(candles))
            for symbol, candles in group_by_symbol(c for c in frame.candles if c.interval_minutes == 1).items()
        ]
    return []
