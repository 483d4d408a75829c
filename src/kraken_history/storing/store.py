"""Every write of market data in the project.

One transaction: lock the symbols' ledger rows in order, keep the trade ids that the ledger lacks, COPY them,
extend the ledger, add them to their candles, merge the exchange's own candles, notify. The ledger decides by
(symbol, id) alone, so redelivery, two producers, and a backfill beside the live feed change nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from typing import TypeVar

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from kraken_history.database.connections import Connection
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.records import CandleSource, HistoricalCandle, HistoricalTrade, group_by_symbol
from kraken_history.storing.candle_changes import TouchedMinutes, note_touched
from kraken_history.storing.candle_writing import add_to_candles, fullest, merge_candles
from kraken_history.storing.partitions import ensure_partitions

MOST_HOLES_REPORTED = 100
"""Of one symbol and write, the newest. The worker's sweep sees all."""

T = TypeVar("T")

_TRADE_COLUMNS = ("id", "symbol", "timestamp", "price", "volume", "side", "order_type", "misc")


class Stored(Struct, frozen=True):
    """What a write did.

    Attributes:
        new_trades: Trades that were not in the ledger, and are now.
        known_trades: Trades that the ledger already held, and repeats within the batch.
        new_candles: Minutes that had no candle before.
        holes: By symbol with new trades: ids missing between the lowest and the highest held.
    """

    new_trades: int
    known_trades: int
    new_candles: int
    holes: dict[str, IdRanges]


class Store:
    """Writes to one database; safe to use from many tasks and processes at once."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._days_with_partitions: set[datetime] = set()

    async def write(
        self,
        trades: Sequence[HistoricalTrade] = (),
        candles: Sequence[HistoricalCandle] = (),
        *,
        candle_source: CandleSource = "ohlc",
    ) -> Stored:
        """Store trades, and one-minute candles of another source, in one transaction.

        Cancelled or failed, nothing of the batch is stored; committed, all of it is. Writing it again
        changes nothing.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver says;
                :func:`kraken_history.database.connections.is_transient` tells which may pass.
        """
        return await self.transact(
            trades, candles, partial(write_within, trades=trades, candles=candles, candle_source=candle_source)
        )

    async def transact(
        self,
        trades: Sequence[HistoricalTrade],
        candles: Sequence[HistoricalCandle],
        write: Callable[[Connection], Awaitable[T]],
    ) -> T:
        """Call ``write`` in one transaction, for which the partitions of these trades and candles are there.

        If retention drops one of them meanwhile, the transaction is rolled back and ``write`` is called once more.
        """
        async with self._pool.acquire() as connection:
            try:
                return await self._transact(connection, trades, candles, write)
            except asyncpg.CheckViolationError:
                # Retention may have dropped a partition that was there when this process last looked.
                self.forget_partitions()
                return await self._transact(connection, trades, candles, write)

    async def _transact(
        self,
        connection: Connection,
        trades: Sequence[HistoricalTrade],
        candles: Sequence[HistoricalCandle],
        write: Callable[[Connection], Awaitable[T]],
    ) -> T:
        await self.ensure_partitions(connection, trades, candles)
        async with connection.transaction():
            return await write(connection)

    def forget_partitions(self) -> None:
        """Look again which partitions there are: retention, in any process, may have dropped some."""
        self._days_with_partitions.clear()

    async def ensure_partitions(
        self, connection: Connection, trades: Sequence[HistoricalTrade], candles: Sequence[HistoricalCandle]
    ) -> None:
        """Make the partitions that a batch needs, outside of its transaction. Hypertables need none."""
        moments = {t.timestamp.date(): t.timestamp for t in trades}
        moments.update({c.timestamp.date(): c.timestamp for c in candles})
        missing = [moment for moment in moments.values() if _day(moment) not in self._days_with_partitions]
        if missing:
            for table in ("trades", "candles"):
                await ensure_partitions(connection, table, missing)
            self._days_with_partitions.update(map(_day, missing))


async def write_within(
    connection: Connection,
    trades: Sequence[HistoricalTrade],
    candles: Sequence[HistoricalCandle],
    *,
    candle_source: CandleSource,
) -> Stored:
    """:meth:`Store.write` inside a transaction of the caller, who has more to commit with it."""
    merged = fullest(candles, candle_source)
    by_symbol = group_by_symbol(trades)
    symbols = sorted(by_symbol.keys() | {candle.symbol for candle in merged})
    if not symbols:
        return Stored(0, 0, 0, {})
    held = await _lock_ledger(connection, symbols, by_symbol)
    new = {symbol: unheld for symbol, group in by_symbol.items() if (unheld := _unheld(group, held[symbol]))}
    new_count = sum(map(len, new.values()))
    holes: dict[str, IdRanges] = {}
    minutes = TouchedMinutes()
    if new:
        added = list(chain.from_iterable(new.values()))
        await _copy_trades(connection, added)
        holes = await _extend_ledger(connection, new)
        minutes.add(await add_to_candles(connection, added))
    if merged:
        minutes.add(await merge_candles(connection, merged, candle_source))
    if minutes:
        await note_touched(connection, minutes)
    return Stored(new_count, len(trades) - new_count, sum(minutes.new.values()), holes)


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


async def lock_symbol(connection: Connection, symbol: str) -> None:
    """Keep every other writer from a symbol's trades and candles until the end of the transaction."""
    await _lock_ledger(connection, [symbol], {})


async def _lock_ledger(
    connection: Connection, symbols: list[str], by_symbol: Mapping[str, Sequence[HistoricalTrade]]
) -> dict[str, IdRanges]:
    """Lock the symbols until the end of the transaction; return what is held of the ids in question."""
    spans = [_span(by_symbol.get(symbol, ())) for symbol in symbols]
    arguments = (symbols, [span[0] for span in spans], [span[1] for span in spans])
    rows = await connection.fetch(_LOCK_LEDGER, *arguments)
    if len(rows) < len(symbols):
        await connection.execute(_OPEN_LEDGER, symbols)
        rows = await connection.fetch(_LOCK_LEDGER, *arguments)
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["held"]) for row in rows}


def _span(trades: Sequence[HistoricalTrade]) -> IdRange:
    ids = [trade.id for trade in trades]
    return (min(ids), max(ids) + 1) if ids else (0, 0)


# ORDER BY makes all writers lock in the same order. Only the ledger near the batch crosses the wire.
_LOCK_LEDGER = """
    SELECT s.symbol, s.id_ranges * int8multirange(int8range(w.low, w.high)) AS held
    FROM data_sync_status s
    JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS w (symbol, low, high) USING (symbol)
    WHERE s.data_type = 'trades'
    ORDER BY s.symbol
    FOR UPDATE OF s
"""

_OPEN_LEDGER = """
    INSERT INTO data_sync_status (symbol, data_type)
    SELECT symbol, 'trades' FROM unnest($1::text[]) AS symbol ORDER BY symbol
    ON CONFLICT DO NOTHING
"""


def _unheld(trades: Sequence[HistoricalTrade], held: IdRanges) -> Sequence[HistoricalTrade]:
    """The trades of one symbol that the ledger lacks; of a trade that comes twice in the batch, the first."""
    if not held and len({trade.id for trade in trades}) == len(trades):
        return trades
    first_seen: dict[int, HistoricalTrade] = {}
    for trade in trades:
        if trade.id not in held:
            first_seen.setdefault(trade.id, trade)
    return list(first_seen.values())


async def _copy_trades(connection: Connection, trades: Sequence[HistoricalTrade]) -> None:
    data = _copy_csv(trades)
    if data is None:
        await connection.copy_records_to_table("trades", records=map(astuple, trades), columns=_TRADE_COLUMNS)
    else:
        await connection.copy_to_table("trades", source=_one_chunk(data), columns=_TRADE_COLUMNS, format="csv")


async def _one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _copy_csv(trades: Sequence[HistoricalTrade]) -> bytes | None:
    """The trades in COPY's CSV format, or None where one holds text that the shortcut below would garble.

    A JSON array of strings and integers is a line of CSV, but for its brackets and for escapes; and msgspec
    writes JSON several times faster than Python, or the driver's binary encoding, can write rows.
    """
    rows = msgspec.json.encode(trades)[2:-2]
    if b"\\" in rows or rows.count(b"],[") != len(trades) - 1:
        return None
    return rows.replace(b"],[", b"\n")


async def _extend_ledger(connection: Connection, new: Mapping[str, Sequence[HistoricalTrade]]) -> dict[str, IdRanges]:
    rows = await connection.fetch(
        _EXTEND_LEDGER,
        list(new),
        [_multirange(IdRanges.of(trade.id for trade in trades)) for trades in new.values()],
        [len(trades) for trades in new.values()],
        [min(trade.timestamp for trade in trades) for trades in new.values()],
        [max(trade.timestamp for trade in trades) for trades in new.values()],
        MOST_HOLES_REPORTED,
    )
    return {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["holes"] or ()) for row in rows}


def _multirange(ranges: IdRanges) -> str:
    return "{" + ",".join(f"[{start},{stop})" for start, stop in ranges) + "}"


_EXTEND_LEDGER = """
    UPDATE data_sync_status s
    SET id_ranges = s.id_ranges + n.ids::int8multirange,
        absent_id_ranges = s.absent_id_ranges - n.ids::int8multirange,
        oldest_timestamp = least(s.oldest_timestamp, n.oldest),
        newest_timestamp = greatest(s.newest_timestamp, n.newest),
        total_records = s.total_records + n.count,
        last_sync_at = now()
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[])
        AS n (symbol, ids, count, oldest, newest)
    WHERE s.symbol = n.symbol AND s.data_type = 'trades'
    RETURNING s.symbol, (
        SELECT array_agg(hole) FROM (
            SELECT hole FROM unnest(ledger_holes(s.id_ranges, s.absent_id_ranges)) AS hole
            ORDER BY hole DESC LIMIT $6
        ) AS newest_holes
    ) AS holes
"""
