"""Dead letters: frames, entries and single rows that could not be decoded or stored, with the reason.

They are kept until a person deletes them, and replayed on command.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from redis.asyncio import Redis

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.rest import decode_trade_row
from kraken_history.kraken.websocket import Candles, Trades, decode_frame, frame_of_row
from kraken_history.records import HistoricalTrade, RefusedTrade, UnreadableRow, group_by_symbol, utc_from_unix_ns
from kraken_history.runtime import telemetry
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.stream import wire

WEBSOCKET = "websocket"
"""Origin of a dead letter that is a raw frame."""

REST = "rest"
"""Origin of a dead letter that is a row of a page of trades. All other origins are names of streams."""

LARGEST_FIELD = 16 * 2**20
"""Bytes of a field that are kept: as many as a frame may have. What we publish ourselves is far smaller."""

_MOST_REMEMBERED = 10_000
"""Number of the newest rows without a readable id that are remembered, so that the next request of their page does not
add them again."""

_KNOWN_ID = "its id belongs to another stored trade, which is kept"

_UNKNOWN = "its id leaps absurdly far from the stored ones, and Kraken's REST API does not know it"

_log = telemetry.get_logger("dead-letters")


class DeadLetter(Struct, frozen=True):
    """One entry of the dead-letter stream.

    Attributes:
        id: Its id in the dead-letter stream.
        origin: The stream that it was read from, or ``websocket`` or ``rest``.
        fields: The entry's fields, unchanged; a frame is under ``frame``, a row of a page under ``row``.
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
            await self._redis.xadd(self._stream, _letter_fields(origin, origin_id, reason, fields))
        telemetry.DEAD_LETTERS.labels(kept=str(kept).lower()).inc()
        _log.error("dead_letter", origin=origin, origin_id=origin_id, reason=reason[:200], kept=kept)
        return kept

    async def put_frame(self, error: MalformedMessage) -> bool:
        """Add a frame of the WebSocket that could not be decoded."""
        return await self.put(WEBSOCKET, "", error.reason, {b"frame": error.payload})

    async def put_refused(self, trade: RefusedTrade) -> bool:
        """Add a refused row of a WebSocket frame, as a frame of that row alone."""
        return await self.put(WEBSOCKET, "", trade.reason, {b"frame": frame_of_row(trade.row)})

    async def put_rows_of_pages(self, refused: Sequence[RefusedTrade]) -> None:
        """Add refused rows of pages of trades."""
        for trade in refused:
            fields = {b"row": trade.row.encode(errors="replace"), b"symbol": trade.symbol.encode()}
            await self.put(REST, str(trade.id), trade.reason, fields)

    async def put_unreadable(self, rows: Sequence[UnreadableRow]) -> None:
        """Add rows of pages of trades whose id cannot be read, each once, however often its page is requested."""
        known = f"{self._prefix}:unreadable-rows"
        for row in rows:
            text = row.row.encode(errors="replace")
            digest = hashlib.sha256(row.symbol.encode() + b" " + text).digest()
            if await self._redis.zscore(known, digest) is None and await self.put(
                REST, "", row.reason, {b"row": text, b"symbol": row.symbol.encode()}
            ):
                await self._redis.zadd(known, {digest: time.time()})
                await self._redis.zremrangebyrank(known, 0, -_MOST_REMEMBERED - 1)

    async def put_reused(self, trades: Sequence[HistoricalTrade], *, shards: int) -> None:
        """Add trades whose ids belong to other stored trades: one letter per symbol."""
        for symbol, group in group_by_symbol(trades).items():
            stream = wire.trades_stream(wire.shard_of(symbol, shards), self._prefix)
            await self.put(stream, f"{group[0].id}", f"{symbol} {group[0].id}: {_KNOWN_ID}", wire.encode(group))

    async def put_unknown(self, trade: HistoricalTrade, *, shards: int) -> None:
        """Add a trade whose id leaps, and that Kraken does not confirm."""
        stream = wire.trades_stream(wire.shard_of(trade.symbol, shards), self._prefix)
        await self.put(stream, f"{trade.id}", f"{trade.symbol} {trade.id}: {_UNKNOWN}", wire.encode([trade]))

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
            MalformedMessage: The frame or row still cannot be decoded. The letter remains.
        """
        entries = _entries_of_letter(letter, shards, self._prefix)
        # Not in one transaction, because a cluster has these streams on several nodes. If this is cut off in between,
        # the entry is replayed twice, which the ledger tolerates.
        async with self._redis.pipeline(transaction=False) as pipeline:
            for stream, fields in entries:
                pipeline.xadd(stream, fields)
            await pipeline.execute()
        await self._redis.xdel(self._stream, letter.id)


def _letter(id_: str, fields: Mapping[bytes, bytes]) -> DeadLetter:
    kept = {k.removeprefix(b"field:"): v for k, v in fields.items() if k.startswith(b"field:")}
    head = {k: fields.get(k, b"").decode(errors="replace") for k in (b"origin", b"origin_id", b"reason")}
    return DeadLetter(id_, head[b"origin"], head[b"origin_id"], head[b"reason"], kept)


def _entries_of_letter(letter: DeadLetter, shards: int, prefix: str) -> list[tuple[str, wire.Fields]]:
    if letter.origin == REST:
        trade = decode_trade_row(letter.fields[b"row"], letter.fields[b"symbol"].decode())
        return _entries_of(Trades([trade], is_snapshot=False), shards, prefix)
    if letter.origin == WEBSOCKET:
        return _entries_of(decode_frame(letter.fields[b"frame"]), shards, prefix)
    return [(letter.origin, dict(letter.fields))]


def _entries_of(frame: object, shards: int, prefix: str) -> list[tuple[str, wire.Fields]]:
    if isinstance(frame, Trades):
        return _trade_entries_of(frame, shards, prefix)
    if isinstance(frame, Candles):
        return [
            (wire.candles_stream(wire.shard_of(symbol, shards), prefix), wire.encode(candles))
            for symbol, candles in group_by_symbol(c for c in frame.candles if c.interval_minutes == 1).items()
        ]
    return []


def _trade_entries_of(frame: Trades, shards: int, prefix: str) -> list[tuple[str, wire.Fields]]:
    """The entries of a frame, and a dead letter for each of its rows that is not valid, if any row is.

    Raises:
        MalformedMessage: No row is valid.
    """
    for refused in frame.refused:
        if not frame.trades:
            raise MalformedMessage(refused.reason, refused.row.encode(errors="replace"))
    letters = [(each.reason, frame_of_row(each.row)) for each in frame.refused]
    letters += [(each.reason, each.payload) for each in frame.unreadable]
    trades, refused_of = group_by_symbol(frame.trades), group_by_symbol(frame.refused)
    entries = [
        (
            wire.trades_stream(wire.shard_of(symbol, shards), prefix),
            wire.encode(trades.get(symbol, ()), refused_of.get(symbol, ())),
        )
        for symbol in {**trades, **refused_of}
    ]
    return entries + [
        (wire.dead_letters_stream(prefix), _letter_fields(WEBSOCKET, "", reason, {b"frame": row}))
        for reason, row in letters
    ]


def _letter_fields(origin: str, origin_id: str, reason: str, fields: Mapping[bytes, bytes]) -> wire.Fields:
    letter: wire.Fields = {b"field:" + name: value[:LARGEST_FIELD] for name, value in fields.items()}
    cut = {name: len(value) for name, value in fields.items() if len(value) > LARGEST_FIELD}
    if cut:
        lengths = ", ".join(f"{name.decode(errors='replace')[:20]} {length}" for name, length in cut.items())
        reason = f"of these fields only {LARGEST_FIELD} bytes are kept: {lengths}; {reason}"
    # A reason may quote half a surrogate pair, which UTF-8 cannot encode.
    return letter | {b"origin": origin, b"origin_id": origin_id, b"reason": reason[:1000].encode(errors="replace")}
