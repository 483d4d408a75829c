"""Writes a batch of trades, and of candles from other sources.

One transaction: lock the symbols' ledger rows in order, select the trades whose ids the ledger lacks, COPY them,
extend the ledger, add them to their candles, merge the other candles. Followers are notified after the commit. The
ledger decides by (symbol, id) alone, so redelivery, two producers, or a backfill beside the live feed store no trade
twice.
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
from kraken_history.database.failures import MAY_BE_THE_BATCH
from kraken_history.ledger import IdRanges
from kraken_history.records import (
    CandleSource,
    HistoricalCandle,
    HistoricalTrade,
    RefusedTrade,
    UnreadableRow,
    group_by_symbol,
)
from kraken_history.storing.announcing import announced_transaction
from kraken_history.storing.candle_changes import TouchedMinutes, note_touched
from kraken_history.storing.candle_writing import add_to_candles, fullest, merge_candles
from kraken_history.storing.contested import settle
from kraken_history.storing.ledger_writing import extend_ledger, lock_ledger
from kraken_history.storing.partitions import ensure_partitions
from kraken_history.storing.refusals import differ, note_refused, note_reused
from kraken_history.storing.waiting import hold_back
from kraken_history.storing.widths import MOST_DAYS, Rows, by_days, halved

T = TypeVar("T")

_TRADE_COLUMNS = ("id", "symbol", "timestamp", "price", "volume", "side", "order_type", "misc")


class Stored(Struct, frozen=True):
    """The outcome of a write.

    Attributes:
        new_trades: Trades that were not in the ledger before.
        known_trades: Trades that the ledger already held, and repeats within the batch.
        new_candles: Minutes that had no candle before.
        holes: By symbol with new trades: ids missing between the lowest and the highest held.
        refused: Refused trades of the batch that were not recorded before.
        reused: Known trades of the batch that are other trades than the stored ones with their ids, if their ids were
            not recorded before. The stored ones are kept.
        waiting: Trades of the batch that are not stored yet, because their ids leap, and that did not wait before.
    """

    new_trades: int
    known_trades: int
    new_candles: int
    holes: dict[str, IdRanges]
    refused: Sequence[RefusedTrade] = ()
    reused: Sequence[HistoricalTrade] = ()
    waiting: Sequence[HistoricalTrade] = ()


PutAside = Callable[[Sequence[RefusedTrade], Sequence[HistoricalTrade], Sequence[UnreadableRow]], Awaitable[None]]
"""Keeps what was not stored, for a person to see: refused trades, others with a known id, and rows without a readable
id."""


def _sum(one: Stored, other: Stored) -> Stored:
    """The outcome of two transactions, the later one last. Only a write with a new trade reports holes."""
    return Stored(
        one.new_trades + other.new_trades,
        one.known_trades + other.known_trades,
        one.new_candles + other.new_candles,
        one.holes | other.holes,
        [*one.refused, *other.refused],
        [*one.reused, *other.reused],
        [*one.waiting, *other.waiting],
    )


class Store:
    """Writes to one database; safe to use from many tasks and processes at once.

    Args:
        put_aside: Called after commits that recorded trades which are not stored; see :meth:`put_aside`.
        doubts_leaps: :meth:`write` keeps trades apart whose ids leap absurdly far from the stored ones, until Kraken's
            REST API confirms them. Not for trades that come from there.
    """

    def __init__(self, pool: asyncpg.Pool, *, put_aside: PutAside | None = None, doubts_leaps: bool = False) -> None:
        self._pool = pool
        self._doubts_leaps = doubts_leaps
        self._put_aside = put_aside
        self._days_with_partitions: set[datetime] = set()

    async def write(
        self,
        trades: Sequence[HistoricalTrade] = (),
        candles: Sequence[HistoricalCandle] = (),
        *,
        candle_source: CandleSource = "ohlc",
        refused: Sequence[RefusedTrade] = (),
    ) -> Stored:
        """Store trades, and one-minute candles of another source, and record refused trades.

        All of it in one transaction, unless the rows are of more than :data:`~widths.MOST_DAYS` days: then in one per
        so many days, the oldest first. If a transaction is cancelled or fails, nothing of it is stored. Writing a batch
        again changes nothing.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them.
                :func:`kraken_history.database.connections.is_transient` decides which may succeed later.
        """
        first, *others = by_days(trades, candles)
        stored = await self._write(first, candle_source, refused)
        for part in others:
            stored = _sum(stored, await self._write(part, candle_source, ()))
        return stored

    async def _write(self, rows: Rows, candle_source: CandleSource, refused: Sequence[RefusedTrade]) -> Stored:
        """Write the rows in one transaction. If it is too large for the server, halve its days, down to one."""
        write = partial(
            write_within,
            trades=rows.trades,
            candles=rows.candles,
            candle_source=candle_source,
            refused=refused,
            doubts_leaps=self._doubts_leaps,
        )
        try:
            return await self.transact(rows.trades, rows.candles, write)
        except MAY_BE_THE_BATCH:
            halves = halved(rows)
            if halves is None:
                raise
        stored = await self._write(halves[0], candle_source, refused)
        return _sum(stored, await self._write(halves[1], candle_source, ()))

    async def put_aside(
        self,
        refused: Sequence[RefusedTrade],
        reused: Sequence[HistoricalTrade],
        unreadable: Sequence[UnreadableRow] = (),
    ) -> None:
        """Pass on what committed writes did not store, if there is any, and somebody keeps it."""
        if self._put_aside is not None and (refused or reused or unreadable):
            await self._put_aside(refused, reused, unreadable)

    async def transact(
        self,
        trades: Sequence[HistoricalTrade],
        candles: Sequence[HistoricalCandle],
        write: Callable[[Connection], Awaitable[T]],
    ) -> T:
        """Call ``write`` in one transaction, after creating the partitions of these trades and candles.

        If retention drops one of them meanwhile, the transaction is rolled back and ``write`` is called once more.
        """
        async with self._pool.acquire() as connection:
            try:
                return await self._transact(connection, trades, candles, write)
            except asyncpg.CheckViolationError:
                # Retention may have dropped a partition that was there when this process last looked.
                self.forget_partitions()
                return await self._transact(connection, trades, candles, write)
            except asyncpg.ReadOnlySQLTransactionError:
                # This server is a standby now. The next connections may find another one at the same address.
                await self._pool.expire_connections()
                raise

    async def _transact(
        self,
        connection: Connection,
        trades: Sequence[HistoricalTrade],
        candles: Sequence[HistoricalCandle],
        write: Callable[[Connection], Awaitable[T]],
    ) -> T:
        await self.ensure_partitions(connection, trades, candles)
        async with announced_transaction(connection):
            return await write(connection)

    def forget_partitions(self) -> None:
        """Forget which partitions exist, because retention in another process may have dropped some."""
        self._days_with_partitions.clear()

    async def ensure_partitions(
        self, connection: Connection, trades: Sequence[HistoricalTrade], candles: Sequence[HistoricalCandle]
    ) -> None:
        """Create the partitions that a batch needs, outside its transaction. Hypertables need none."""
        moments = {t.timestamp.date(): t.timestamp for t in trades}
        moments.update({c.timestamp.date(): c.timestamp for c in candles})
        missing = sorted(moment for moment in moments.values() if _day(moment) not in self._days_with_partitions)
        for at in range(0, len(missing), MOST_DAYS):
            some = missing[at : at + MOST_DAYS]
            for table in ("trades", "candles"):
                await ensure_partitions(connection, table, some)
            self._days_with_partitions.update(map(_day, some))


async def write_within(
    connection: Connection,
    trades: Sequence[HistoricalTrade],
    candles: Sequence[HistoricalCandle],
    *,
    candle_source: CandleSource,
    refused: Sequence[RefusedTrade] = (),
    doubts_leaps: bool = False,
) -> Stored:
    """As :meth:`Store.write`, inside a transaction of the caller."""
    merged = fullest(candles, candle_source)
    by_symbol: Mapping[str, Sequence[HistoricalTrade]] = group_by_symbol(trades)
    symbols = sorted(by_symbol.keys() | {candle.symbol for candle in merged} | {trade.symbol for trade in refused})
    if not symbols:
        return Stored(0, 0, 0, {})
    ledgers = await lock_ledger(connection, symbols, by_symbol)
    held = {symbol: ledger.ids for symbol, ledger in ledgers.items()}
    waiting: Sequence[HistoricalTrade] = ()
    if doubts_leaps:
        by_symbol, waiting = await hold_back(connection, by_symbol, ledgers)
    new = {symbol: unheld for symbol, group in by_symbol.items() if (unheld := _unheld(group, held[symbol]))}
    reused = await _find_reused(connection, by_symbol, held, new)
    new_count = sum(map(len, new.values()))
    holes: dict[str, IdRanges] = {}
    minutes = TouchedMinutes()
    if new:
        added = list(chain.from_iterable(new.values()))
        await _copy_trades(connection, added)
        holes = await extend_ledger(connection, new, ledgers)
        rows = await add_to_candles(connection, added)
        minutes.add(rows)
        await _settle(connection, rows, minutes)
    newly_refused = await note_refused(connection, refused) if refused else ()
    for symbol in sorted({trade.symbol for trade in newly_refused}):  # nothing is missing where one was refused
        minutes.add(await settle(connection, symbol))
    if merged:
        minutes.add(await merge_candles(connection, merged, candle_source))
    if minutes:
        await note_touched(connection, minutes)
    known_count = sum(map(len, by_symbol.values())) - new_count
    return Stored(new_count, known_count, sum(minutes.new.values()), holes, newly_refused, reused, waiting)


async def copy_new_trades(connection: Connection, trades: Sequence[HistoricalTrade]) -> None:
    """As :func:`write_within`, without ledger and candles: for a trial that is rolled back."""
    by_symbol = group_by_symbol(trades)
    held = await lock_ledger(connection, sorted(by_symbol), by_symbol)
    added = [trade for symbol, group in by_symbol.items() for trade in _unheld(group, held[symbol].ids)]
    if added:
        await _copy_trades(connection, added)


async def _settle(connection: Connection, rows: Sequence[asyncpg.Record], minutes: TouchedMinutes) -> None:
    """Settle the contested minutes that new trades may have proven."""
    for symbol in sorted({row["symbol"] for row in rows if row["is_contested"]}):
        times = [row["timestamp"] for row in rows if row["symbol"] == symbol]
        minutes.add(await settle(connection, symbol, (min(times), max(times))))


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _unheld(trades: Sequence[HistoricalTrade], held: IdRanges) -> Sequence[HistoricalTrade]:
    """The trades of one symbol that the ledger lacks. If a trade occurs twice in the batch, the first one counts."""
    if not held and len({trade.id for trade in trades}) == len(trades):
        return trades
    first_seen: dict[int, HistoricalTrade] = {}
    for trade in trades:
        if trade.id not in held:
            first_seen.setdefault(trade.id, trade)
    return list(first_seen.values())


async def _find_reused(
    connection: Connection,
    by_symbol: Mapping[str, Sequence[HistoricalTrade]],
    held: Mapping[str, IdRanges],
    new: Mapping[str, Sequence[HistoricalTrade]],
) -> Sequence[HistoricalTrade]:
    """The trades that are not new, and are other trades than those with their ids, stored or earlier in the batch."""
    known: list[HistoricalTrade] = []
    differing: list[HistoricalTrade] = []
    for symbol, group in by_symbol.items():
        added = new.get(symbol, ())
        if len(added) == len(group):
            continue
        known += [trade for trade in group if trade.id in held[symbol]]
        first_seen = {trade.id: trade for trade in added}
        differing += [trade for trade in group if (one := first_seen.get(trade.id)) is not None and differ(one, trade)]
    return await note_reused(connection, known, differing) if known or differing else ()


async def _copy_trades(connection: Connection, trades: Sequence[HistoricalTrade]) -> None:
    data = _copy_csv(trades)
    if data is None:
        await connection.copy_records_to_table("trades", records=map(astuple, trades), columns=_TRADE_COLUMNS)
    else:
        await connection.copy_to_table("trades", source=_one_chunk(data), columns=_TRADE_COLUMNS, format="csv")


async def _one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _copy_csv(trades: Sequence[HistoricalTrade]) -> bytes | None:
    """The trades in COPY's CSV format; None if one contains text that this method would corrupt.

    Except for brackets and escapes, a JSON array of strings and integers is a line of CSV. msgspec writes JSON several
    times faster than Python, or the driver's binary encoding, writes rows.
    """
    rows = msgspec.json.encode(trades)[2:-2]
    if b"\\" in rows or rows.count(b"],[") != len(trades) - 1:
        return None
    return rows.replace(b"],[", b"\n")
