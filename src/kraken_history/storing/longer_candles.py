"""Stores candles of longer intervals that have no minutes below them, as the exchange or a download gave them.

They are in a table of their own, which neither a refresh nor retention changes. Readers take them where minutes are
missing. A candle that is given again by the same source replaces the stored one: Kraken corrects its candles. Of two
sources, the fuller candle is kept, as with minutes.
"""

from collections.abc import Sequence
from datetime import datetime

import asyncpg
from msgspec import Struct

from kraken_history.completeness.longer_cover import LONGER, cover_longer
from kraken_history.database.connections import Connection, write_again
from kraken_history.errors import UsageError
from kraken_history.intervals import bucket_start, width_of
from kraken_history.records import CandleSource, HistoricalCandle, TimeRange
from kraken_history.storing.candle_rules import VALUES, assigned, is_fuller, row


class StoredLonger(Struct, frozen=True):
    """The outcome of a write.

    Attributes:
        new: Candles of buckets that had none before.
        replaced: Candles that replaced another one.
    """

    new: int
    replaced: int


async def store_longer_candles(
    pool: asyncpg.Pool,
    symbol: str,
    interval: int,
    candles: Sequence[HistoricalCandle],
    source: CandleSource,
    *,
    covered: Sequence[TimeRange] | None = None,
) -> StoredLonger:
    """Store closed candles of one symbol and interval, and the time that they cover, in one transaction.

    Candles without trades are not stored.

    Args:
        interval: One of :data:`~kraken_history.completeness.longer_cover.LONGER`.
        covered: Time in which a bucket without a candle is known to be quiet. By default, from the first candle to the
            end of the last.

    Raises:
        UsageError: The interval is another one, or a candle is of another symbol or interval, or begins elsewhere.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them; nothing is stored.
    """
    _check(symbol, interval, candles)
    if covered is None:
        if not candles:
            return StoredLonger(0, 0)
        times = [candle.timestamp for candle in candles]
        covered = [TimeRange(min(times), max(times) + width_of(interval))]
    known = covered

    async def once() -> StoredLonger:
        async with pool.acquire() as connection, connection.transaction():
            return await _store(connection, symbol, interval, candles, source, known)

    return await write_again(once)


def _check(symbol: str, interval: int, candles: Sequence[HistoricalCandle]) -> None:
    if interval not in LONGER:
        raise UsageError(f"expected an interval of {', '.join(map(str, LONGER))} minutes, got {interval}")
    for candle in candles:
        if (candle.symbol, candle.interval_minutes) != (symbol, interval):
            raise UsageError(
                f"expected candles of {symbol}, {interval} min, got one of {candle.symbol},"
                f" {candle.interval_minutes} min"
            )
        if bucket_start(candle.timestamp, width_of(interval)) != candle.timestamp:
            raise UsageError(f"expected a candle at the start of its {interval} minutes, got one at {candle.timestamp}")


async def _store(
    connection: Connection,
    symbol: str,
    interval: int,
    candles: Sequence[HistoricalCandle],
    source: CandleSource,
    covered: Sequence[TimeRange],
) -> StoredLonger:
    traded: dict[datetime, HistoricalCandle] = {candle.timestamp: candle for candle in candles if candle.trade_count}
    ordered = [traded[time] for time in sorted(traded)]
    columns = [[getattr(candle, name) for candle in ordered] for name in ("timestamp", *VALUES)]
    rows = await connection.fetch(_STORE, symbol, interval, source, *columns)
    new = sum(each["is_new"] for each in rows)
    await cover_longer(connection, symbol, interval, covered, sorted(traded), new)
    return StoredLonger(new, len(rows) - new)


_NAMES = ", ".join(("timestamp", *VALUES))
_STORE = f"""
    INSERT INTO longer_candles AS c (symbol, interval_minutes, source, {_NAMES})
    SELECT $1, $2::smallint, $3::text::candle_source, {_NAMES} FROM unnest(
        $4::timestamptz[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[], $9::numeric[], $10::numeric[],
        $11::bigint[], $12::numeric[]) AS o ({_NAMES})
    ON CONFLICT (symbol, interval_minutes, timestamp) DO UPDATE SET
        {assigned((*VALUES, "source"), "excluded")}, stored_at = excluded.stored_at
    WHERE CASE WHEN c.source = excluded.source THEN {row(VALUES, "c")} <> {row(VALUES, "excluded")}
          ELSE {is_fuller("excluded", "c")} END
    RETURNING c.xmax = 0 AS is_new
"""  # noqa: S608 — only constants are put in
