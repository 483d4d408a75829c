"""Writes candles, inside a transaction that holds the symbols' locks.

Three rules together make the order of arrival irrelevant:

* A candle of source ``trades`` contains exactly the stored trades of its minute. New trades are added to it.
  If a candle of another source is stored instead, the candle is rebuilt from the stored trades.
* Of two candles of different sources the fuller one is kept: the greater (trade_count, source).
* If the ledger proves that all trades of a minute are stored, their candle is kept, whatever the others count. See
  :mod:`~kraken_history.storing.contested`.
"""

from collections.abc import Iterable, Sequence, Set
from datetime import datetime

import asyncpg

from kraken_history.database.connections import Connection
from kraken_history.database.time_bounds import DAY, WEEK, within
from kraken_history.records import MINUTE, CandleSource, HistoricalCandle, HistoricalTrade, floor_minute
from kraken_history.storing.candle_deltas import candle_deltas
from kraken_history.storing.candle_rules import (
    OF_TRADES,
    TRADE_IDS,
    VALUES,
    assigned,
    is_full_enough,
    is_fuller,
    strength,
    vwap,
)
from kraken_history.storing.contested import contest, proven_minutes


def fullest(candles: Iterable[HistoricalCandle], source: CandleSource) -> list[HistoricalCandle]:
    """The fullest candle of each symbol and minute; empty minutes are not stored."""
    best: dict[tuple[str, datetime], HistoricalCandle] = {}
    for candle in candles:
        if candle.interval_minutes != 1:
            raise ValueError(f"expected a one-minute candle, got one of {candle.interval_minutes} minutes")
        if not candle.trade_count:
            continue
        key = candle.symbol, floor_minute(candle.timestamp)
        known = best.get(key)
        if known is None or strength(known, source) < strength(candle, source):
            best[key] = candle
    return [best[key] for key in sorted(best)]


async def add_to_candles(connection: Connection, added: Sequence[HistoricalTrade]) -> list[asyncpg.Record]:
    """Add new trades to their candles; return the minutes, each with the source of its previous candle, if any.

    Column ``is_contested`` is true if the symbol has contested minutes, which these trades may have proven.
    """
    grouped = candle_deltas(added)
    deltas = [grouped[key] for key in sorted(grouped)]
    minutes = [delta.minute for delta in deltas]
    rows = await connection.fetch(
        _ADD_TO_CANDLES.format(touched=_touched(minutes)),
        *_candle_columns([delta.candle() for delta in deltas]),
        [delta.first_trade_id for delta in deltas],
        [delta.last_trade_id for delta in deltas],
    )
    others = [row for row in rows if row["source_before"] not in (None, "trades")]
    if others:
        minutes = [row["timestamp"] for row in others]
        symbols = [row["symbol"] for row in others]
        rebuilt = await connection.fetch(
            _REBUILD_CANDLES.format(
                of_trades=within("t.timestamp", min(minutes), max(minutes), DAY),
                of_candles=within("c.timestamp", min(minutes), max(minutes), WEEK),
            ),
            symbols,
            minutes,
            min(minutes),
            max(minutes) + MINUTE,
        )
        own = {(row["symbol"], row["timestamp"]) for row in rebuilt}
        await contest(connection, [key for key in zip(symbols, minutes, strict=True) if key not in own])
    return rows


def _candle_columns(candles: Sequence[HistoricalCandle]) -> list[list[object]]:
    return [[getattr(candle, name) for candle in candles] for name in ("symbol", "timestamp", *VALUES)]


_CANDLE_PARAMETERS = """unnest(
        $1::text[], $2::timestamptz[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[],
        $7::numeric[], $8::numeric[], $9::integer[], $10::numeric[]"""

_CANDLE_NAMES = ", ".join(("symbol", "timestamp", *VALUES))

# A candle of source `trades` contains all stored trades of its minute, and the ledger admits each trade once,
# so addition is exact. A candle of another source is not changed here; its source is returned.
# The times of the join are repeated as values: segments of a compressed chunk that they exclude stay compressed.
_ADD_TO_CANDLES = f"""
    WITH added AS MATERIALIZED (
        SELECT * FROM {_CANDLE_PARAMETERS}, $11::bigint[], $12::bigint[])
            AS a ({_CANDLE_NAMES}, first_trade_id, last_trade_id)
    ), before AS MATERIALIZED (
        SELECT c.symbol, c.timestamp, c.source
        FROM added a JOIN candles c
          ON c.timestamp = a.timestamp AND c.symbol = a.symbol AND c.interval_minutes = 1
        WHERE {{touched}}
    ), upserted AS (
        INSERT INTO candles AS c ({_CANDLE_NAMES}, interval_minutes, source, first_trade_id, last_trade_id)
        SELECT {_CANDLE_NAMES}, 1, 'trades', first_trade_id, last_trade_id FROM added
        ON CONFLICT (timestamp, symbol, interval_minutes) DO UPDATE SET
            open = CASE WHEN excluded.first_trade_id < c.first_trade_id THEN excluded.open ELSE c.open END,
            high = greatest(c.high, excluded.high),
            low = least(c.low, excluded.low),
            close = CASE WHEN excluded.last_trade_id > c.last_trade_id THEN excluded.close ELSE c.close END,
            volume = c.volume + excluded.volume,
            quote_volume = c.quote_volume + excluded.quote_volume,
            trade_count = c.trade_count + excluded.trade_count,
            vwap = {vwap("(c.quote_volume + excluded.quote_volume)", "c.volume + excluded.volume")},
            first_trade_id = least(c.first_trade_id, excluded.first_trade_id),
            last_trade_id = greatest(c.last_trade_id, excluded.last_trade_id),
            stored_at = excluded.stored_at
        WHERE c.source = 'trades'
    )
    SELECT a.symbol, a.timestamp, b.source::text AS source_before,
           coalesce(b.source <> 'trades', false)
           OR EXISTS (SELECT FROM contested_minutes k WHERE k.symbol = a.symbol) AS is_contested
    FROM added a LEFT JOIN before b USING (symbol, timestamp)
"""  # noqa: S608 — only constants of this module are put in

# Symbols and times are repeated as constants: segments of a compressed chunk that they exclude stay compressed.
_REBUILD_CANDLES = f"""
    UPDATE candles c
    SET {assigned((*VALUES, "source", *TRADE_IDS), "b")}, stored_at = statement_timestamp()
    FROM (
        SELECT m.symbol, m.minute, {OF_TRADES}
        FROM unnest($1::text[], $2::timestamptz[]) AS m (symbol, minute)
        JOIN trades t ON t.symbol = m.symbol AND t.timestamp >= m.minute
                     AND t.timestamp < m.minute + interval '1 minute'
        WHERE t.symbol = ANY ($1) AND t.timestamp >= $3 AND t.timestamp < $4 AND {{of_trades}}
        GROUP BY m.symbol, m.minute
    ) AS b
    WHERE c.symbol = b.symbol AND c.timestamp = b.minute AND c.interval_minutes = 1
      AND c.symbol = ANY ($1) AND c.timestamp >= $3 AND c.timestamp < $4 AND {{of_candles}}
      AND {is_full_enough("b", "c")}
    RETURNING c.symbol, c.timestamp
"""  # noqa: S608 — only constants are put in


def merging_candles(offered: str, touched: str, *, beats_trades: bool) -> str:
    """The rule of the fuller candle, as the head of a statement: a ``WITH`` list without its last ``SELECT``.

    The ``SELECT`` may use ``offered``; ``before`` (symbol, timestamp, source, is_challenged), the candles stored before
    in the offered minutes, and whether one of source ``trades`` is less full than the offered one; and ``merged``
    (symbol, timestamp), the minutes that changed.

    Args:
        offered: A query for one-minute candles, each minute once, with the column names of the table.
        touched: A condition on ``c.timestamp`` that all offered candles meet; it makes the plan cheaper.
        beats_trades: False to leave challenged candles as they are.
    """
    may_replace = is_fuller("excluded", "c") + ("" if beats_trades else " AND c.source <> 'trades'")
    return f"""
    WITH offered AS MATERIALIZED ({offered}), before AS MATERIALIZED (
        SELECT c.symbol, c.timestamp, c.source, c.source = 'trades' AND {is_fuller("o", "c")} AS is_challenged
        FROM offered o JOIN candles c
          ON c.timestamp = o.timestamp AND c.symbol = o.symbol AND c.interval_minutes = 1
        WHERE {touched}
    ), merged AS (
        INSERT INTO candles AS c ({_CANDLE_NAMES}, interval_minutes, source)
        SELECT {_CANDLE_NAMES}, 1, source FROM offered
        ON CONFLICT (timestamp, symbol, interval_minutes) DO UPDATE SET
            {assigned((*VALUES, "source"), "excluded")}, first_trade_id = NULL, last_trade_id = NULL,
            stored_at = excluded.stored_at
        WHERE {may_replace}
        RETURNING c.symbol, c.timestamp
    )"""  # noqa: S608 — only constants are put in


_OFFERED = f"SELECT o.*, $11::text::candle_source AS source FROM {_CANDLE_PARAMETERS}) AS o ({_CANDLE_NAMES})"  # noqa: S608
_MERGE_CANDLES = {
    beats_trades: f"""
    {merging_candles(_OFFERED, "{touched}", beats_trades=beats_trades)}
    SELECT o.symbol, o.timestamp, b.source::text AS source_before, m.symbol IS NULL AS is_challenger
    FROM offered o LEFT JOIN before b USING (symbol, timestamp) LEFT JOIN merged m USING (symbol, timestamp)
    WHERE m.symbol IS NOT NULL OR b.is_challenged
"""  # noqa: S608 — only constants of this module are put in
    for beats_trades in (False, True)
}


async def merge_candles(
    connection: Connection, candles: Sequence[HistoricalCandle], source: CandleSource
) -> list[asyncpg.Record]:
    """Store candles of another source if they are fuller; return the changed minutes, each with its previous source.

    A candle of trades whose minute is proven complete is not replaced. The symbols must be locked.

    Args:
        candles: Each minute once, as :func:`fullest` returns them.
    """
    rows = await _merge(connection, candles, source, beats_trades=False)
    merged = [row for row in rows if not row["is_challenger"]]
    challenged = {(row["symbol"], row["timestamp"]) for row in rows if row["is_challenger"]}
    if challenged:
        challenged -= await _proven(connection, challenged)
        fuller = [candle for candle in candles if (candle.symbol, floor_minute(candle.timestamp)) in challenged]
        if fuller:
            merged += await _merge(connection, fuller, source, beats_trades=True)
        await contest(connection, challenged)
    return merged


async def _merge(
    connection: Connection, candles: Sequence[HistoricalCandle], source: CandleSource, *, beats_trades: bool
) -> list[asyncpg.Record]:
    statement = _MERGE_CANDLES[beats_trades].format(touched=_touched([candle.timestamp for candle in candles]))
    return await connection.fetch(statement, *_candle_columns(candles), source)


def _touched(minutes: Sequence[datetime]) -> str:
    """The condition of the statements above on the time of stored candles."""
    return f"c.timestamp = ANY ($2) AND {within('c.timestamp', min(minutes), max(minutes), WEEK)}"


async def _proven(connection: Connection, minutes: Set[tuple[str, datetime]]) -> set[tuple[str, datetime]]:
    return {
        (symbol, minute)
        for symbol in sorted({symbol for symbol, _ in minutes})
        for minute in await proven_minutes(connection, symbol, [at for each, at in minutes if each == symbol])
    }
