"""Checks candles of longer intervals that the exchange or a download gave as such, with no minutes below them.

Mostly nothing that is stored proves their values. What can be checked: each is a candle at all, of an interval that is
stored, it begins where its interval does, the time that they cover says so, and their number and times are those that
the ledger has. They are not compared with their minutes: where the ledger proves these complete, reads take the
minutes, and Kraken's own candles may differ from its trades, for example after a trade was cancelled.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from kraken_history.completeness.longer_cover import LONGER
from kraken_history.database.connections import Connection
from kraken_history.reading.differences import Difference, Differences, instant_text
from kraken_history.records import TimeRange

EXTENT = "SELECT min(timestamp), max(timestamp) FROM longer_candles"
"""A query: the times of the oldest and the newest of these candles."""


class Given(Struct, frozen=True):
    """What one snapshot shows of the given candles.

    Attributes:
        count: Number of candles that were checked.
        symbols: Symbols that have some.
    """

    count: int
    symbols: Sequence[str]


async def verify_given(
    connection: Connection, symbols: Sequence[str] | None, within: TimeRange, found: Differences, *, is_whole: bool
) -> Given:
    """Check the candles that open within a range; add what differs to ``found``.

    Args:
        symbols: By their stored names; None for all.
        is_whole: The range holds everything, so the counts and the times of the ledger are compared too.
    """
    only = None if symbols is None else list(symbols)
    wrong = await connection.fetch(_WRONG, within.start, within.end, only, list(LONGER))
    for symbol, interval, at, what, detail in wrong:
        found.add(symbol, what, at, at + _width(interval), f"{_name(interval)}: {detail}", group=f"given {interval}")
    if is_whole:
        for row in await connection.fetch(_WRONG_LEDGERS, only):
            found.append(_of_ledger(*row))
    counts = await connection.fetch(_COUNTS, within.start, within.end, only)
    return Given(sum(row["count"] for row in counts), [row["symbol"] for row in counts])


def _of_ledger(
    symbol: str,
    interval: int,
    told: int,
    count: int,
    told_oldest: datetime | None,
    told_newest: datetime | None,
    oldest: datetime | None,
    newest: datetime | None,
    told_at: datetime,
) -> Difference:
    start = min((moment for moment in (told_oldest, oldest) if moment is not None), default=told_at)
    end = max((moment for moment in (told_newest, newest) if moment is not None), default=start) + _width(interval)
    ledger = f"{told:,} candle(s), {instant_text(told_oldest)} to {instant_text(told_newest)}"
    stored = f"{count:,}, {instant_text(oldest)} to {instant_text(newest)}"
    detail = f"{_name(interval)}: the ledger has {ledger}; stored are {stored}"
    return Difference(symbol, "given_total", start, end, detail)


def _width(interval: int) -> timedelta:
    return timedelta(minutes=interval)


def _name(interval: int) -> str:
    hours, minutes = divmod(interval, 60)
    if minutes:
        return f"{interval}m"
    return f"{hours}h" if hours % 24 else f"{hours // 24}d"


_IS_CANDLE = """
    c.low > 0 AND c.low <= least(c.open, c.close) AND c.high >= greatest(c.open, c.close)
    AND c.volume > 0 AND c.trade_count > 0 AND c.high < 'infinity' AND c.volume < 'infinity'
"""

_IS_OF_NO_INTERVAL = "c.interval_minutes <> ALL ($4::integer[])"
_IS_ELSEWHERE = "c.timestamp <> date_bin(here.width, c.timestamp, '2000-01-01 00:00+00')"

_WRONG = f"""
    SELECT symbol, interval_minutes, timestamp, what, detail FROM (
        SELECT c.symbol, c.interval_minutes, c.timestamp, CASE
            WHEN NOT ({_IS_CANDLE}) OR {_IS_ELSEWHERE} OR {_IS_OF_NO_INTERVAL} THEN 'given_invalid'
            WHEN NOT coalesce(tstzrange(c.timestamp, c.timestamp + here.width) <@ s.time_ranges, false)
                THEN 'given_uncovered'
            END AS what, CASE
            WHEN NOT ({_IS_CANDLE}) THEN concat_ws(' ', 'expected low, open and close, high in this order, and trades;',
                'got open', c.open, 'high', c.high, 'low', c.low, 'close', c.close, 'volume', c.volume,
                'trades', c.trade_count)
            WHEN {_IS_OF_NO_INTERVAL} THEN 'no candles of this interval are stored'
            WHEN {_IS_ELSEWHERE} THEN 'it does not begin where its interval does'
            ELSE 'its time is outside of what these candles cover'
            END AS detail
        FROM longer_candles c
        CROSS JOIN LATERAL (SELECT c.interval_minutes * interval '1 minute' AS width) AS here
        LEFT JOIN data_sync_status s
            ON s.symbol = c.symbol AND s.data_type = 'candles_' || c.interval_minutes || 'm'
        WHERE c.timestamp >= $1 AND c.timestamp < $2 AND ($3::text[] IS NULL OR c.symbol = ANY ($3))
    ) AS checked WHERE what IS NOT NULL ORDER BY symbol, interval_minutes, timestamp
"""  # noqa: S608 — a constant is put in

_COUNTS = """
    SELECT symbol, count(*) AS count FROM longer_candles
    WHERE timestamp >= $1 AND timestamp < $2 AND ($3::text[] IS NULL OR symbol = ANY ($3)) GROUP BY symbol
"""

_WRONG_LEDGERS = """
    WITH stored AS (
        SELECT symbol, interval_minutes, count(*) AS count, min(timestamp) AS oldest, max(timestamp) AS newest
        FROM longer_candles GROUP BY symbol, interval_minutes
    ), told AS (
        SELECT symbol, substring(data_type FROM '\\d+')::integer AS interval_minutes, total_records,
               oldest_timestamp, newest_timestamp, last_sync_at
        FROM data_sync_status WHERE data_type ~ '^candles_\\d+m$' AND data_type <> 'candles_1m'
    )
    SELECT symbol, interval_minutes, coalesce(total_records, 0), coalesce(count, 0),
           oldest_timestamp, newest_timestamp, oldest, newest, last_sync_at
    FROM told FULL JOIN stored USING (symbol, interval_minutes)
    WHERE ($1::text[] IS NULL OR symbol = ANY ($1))
      AND (coalesce(total_records, 0), oldest_timestamp, newest_timestamp)
          IS DISTINCT FROM (coalesce(count, 0), oldest, newest)
    ORDER BY 1, 2
"""
