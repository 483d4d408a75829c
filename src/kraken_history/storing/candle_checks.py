"""The queries that find wrong candles. Verification reports what they find, and a repair mends it.

A one-minute candle is wrong if the rules of :mod:`~kraken_history.storing.candle_writing` do not hold for it. A longer
candle is wrong if it is not what its one-minute candles add up to, and no mark says that it is out of date. Rows that
retention dropped explain a difference in one direction only: what is left is less than what there was.

Texts are compared, because ``1.0 = 1.00`` as numbers, and the digits matter. High and low are compared as numbers:
which of two equal prices comes first depends on the order of the rows. The source of a longer candle may be unknown, if
it was stored before its source was.
"""

from collections.abc import Sequence

from kraken_history.storing.candle_rules import OF_TRADES, TRADE_IDS, VALUES, is_full_enough, longer_candles, row
from kraken_history.storing.longer_intervals import Aggregate

SHOWN = (*VALUES, "source")
"""The columns whose values are returned of a wrong candle."""

_EXTREMES = ("high", "low")

DROPPED = """
    SELECT coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'trades'), '{}') AS of_trades,
           coalesce((SELECT ranges FROM dropped_ranges WHERE relation = 'candles'), '{}') AS of_candles
"""
"""A query: the time whose trades, and the time whose one-minute candles, retention dropped."""


def _differ(columns: Sequence[str], one: str, other: str) -> str:
    exact = tuple(name for name in columns if name not in _EXTREMES)
    return (
        f"({row(exact, one)}::text <> {row(exact, other)}::text"
        f" OR {row(_EXTREMES, one)} IS DISTINCT FROM {row(_EXTREMES, other)})"
    )


# If a trade has two rows, the first stored one counts: the second one is a mistake of its own.
_ONCE = """
    SELECT DISTINCT ON (d.symbol, d.id) d.* FROM trades d
    WHERE d.timestamp >= $1 AND d.timestamp < $2 {only} ORDER BY d.symbol, d.id, d.stored_at NULLS FIRST, d.timestamp
"""


def wrong_minutes(symbols: str | None, *, is_each_once: bool = True) -> str:
    """A query for the wrong one-minute candles between $1 and $2, which are whole minutes.

    It returns ``symbol``, ``timestamp``, ``what`` is wrong, the values of the stored candle as ``found``, those of the
    candle of the stored trades as ``expected``, the ids of the stored candle, and ``lost``, the number of its trades
    that are not stored.

    Args:
        symbols: The parameter with the symbols, such as ``$3``; None for all.
        is_each_once: No trade in this time has two rows.
    """
    only = "" if symbols is None else f"AND {{table}}.symbol = ANY ({symbols}::text[])"
    trades = "trades" if is_each_once else f"({_ONCE.format(only=only.format(table='d'))})"
    return f"""
    WITH dropped AS MATERIALIZED ({DROPPED}), wanted AS (
        SELECT t.symbol, date_trunc('minute', t.timestamp, 'UTC') AS timestamp, {OF_TRADES}
        FROM {trades} t WHERE t.timestamp >= $1 AND t.timestamp < $2 {only.format(table="t")} GROUP BY 1, 2
    ), stored AS (
        SELECT c.* FROM candles c
        WHERE c.interval_minutes = 1 AND c.timestamp >= $1 AND c.timestamp < $2 {only.format(table="c")}
    ), compared AS (
        SELECT symbol, timestamp, {_WHAT_OF_MINUTE} AS what,
               {_shown("stored")} AS found, {_shown("wanted")} AS expected,
               stored.first_trade_id, stored.last_trade_id,
               greatest(coalesce(stored.trade_count, 0) - coalesce(wanted.trade_count, 0), 0) AS lost
        FROM wanted FULL JOIN stored USING (symbol, timestamp)
        CROSS JOIN LATERAL (
            SELECT timestamp <@ of_trades AS lost_trades, timestamp <@ of_candles AS lost_candle FROM dropped
        ) AS here
    )
    SELECT * FROM compared WHERE what IS NOT NULL"""  # noqa: S608 — only constants and a parameter's name are put in


_WHAT_OF_MINUTE = f"""CASE
    WHEN stored.symbol IS NULL THEN CASE WHEN NOT lost_candle THEN 'candle_missing' END
    WHEN wanted.symbol IS NULL THEN
        CASE WHEN stored.source = 'trades' AND NOT lost_trades THEN 'candle_without_trades' END
    WHEN stored.source <> 'trades' THEN
        CASE WHEN NOT lost_candle AND {is_full_enough("wanted", "stored")} THEN 'candle_outranked' END
    WHEN {_differ((*VALUES, *TRADE_IDS), "stored", "wanted")}
         AND NOT (lost_trades AND stored.trade_count >= wanted.trade_count)
         AND NOT (lost_candle AND stored.trade_count <= wanted.trade_count) THEN 'candle_differs'
    END"""


def _shown(candle: str) -> str:
    """An expression: the values of a candle and its source as a text array; null if there is no candle."""
    values = ", ".join(f"coalesce({candle}.{name}::text, 'unknown')" for name in SHOWN)
    return f"CASE WHEN {candle}.symbol IS NOT NULL THEN ARRAY[{values}] END"


def wrong_longer(aggregate: Aggregate, relation: str, symbols: str | None) -> str:
    """A query for the wrong candles of a longer interval that open between $1 and $2, which are bounds of buckets.

    It returns one row: ``stored``, the number of stored candles; and an array each of the ``symbols``, the ``times``,
    ``whats`` is wrong, and the values ``found`` and ``expected``, as text.

    Args:
        relation: The view, or the table below it.
        symbols: The parameter with the symbols, such as ``$3``; None for all.
    """
    only = "" if symbols is None else f"AND symbol = ANY ({symbols}::text[])"
    within = f"timestamp >= $1 AND timestamp < $2 AND interval_minutes = {{minutes}} {only}"
    minutes = f"SELECT * FROM candles WHERE {within.format(minutes=1)}"  # noqa: S608 — ours
    bucket = f"tstzrange(timestamp, timestamp + interval '{aggregate.minutes} minutes')"
    return f"""
    WITH dropped AS MATERIALIZED ({DROPPED}), kept AS MATERIALIZED (
        SELECT coalesce((
                   SELECT range_agg(tstzrange(start_time, end_time)) FROM stale_buckets
                   WHERE name = a.name AND start_time < $2 AND end_time > $1
               ), '{{}}') AS stale, coalesce((to_jsonb(a) ->> 'materialized_until')::timestamptz, 'infinity') AS until,
               coalesce((SELECT ranges FROM dropped_ranges WHERE relation = '{aggregate.view}'), '{{}}') AS gone
        FROM candle_aggregates a WHERE name = '{aggregate.view}'
    ), marks AS MATERIALIZED (
        SELECT symbol, range_agg(tstzrange(start_time, end_time)) AS stale FROM stale_hours
        WHERE start_time < $2 AND end_time > $1 GROUP BY symbol
    ), wanted AS (
        {longer_candles(minutes, aggregate.minutes)}
    ), stored AS (
        SELECT * FROM {relation} WHERE {within.format(minutes=aggregate.minutes)}
    ), compared AS (
        SELECT symbol, timestamp, stored.symbol IS NOT NULL AS is_stored, CASE
            WHEN timestamp >= kept.until OR here.bucket && kept.stale
                 OR coalesce(here.bucket && marks.stale, false) THEN NULL
            WHEN stored.symbol IS NULL THEN CASE WHEN NOT here.bucket && kept.gone THEN 'longer_missing' END
            WHEN wanted.symbol IS NULL THEN
                CASE WHEN NOT here.bucket && dropped.of_candles THEN 'longer_without_minutes' END
            WHEN ({_differ(VALUES, "stored", "wanted")} OR coalesce(stored.source <> wanted.source, false))
                 AND NOT (here.bucket && dropped.of_candles AND stored.trade_count > wanted.trade_count)
                 THEN 'longer_differs'
            END AS what, {_shown("stored")} AS found, {_shown("wanted")} AS expected
        FROM wanted FULL JOIN stored USING (symbol, timestamp)
        LEFT JOIN marks USING (symbol)
        CROSS JOIN kept CROSS JOIN dropped
        CROSS JOIN LATERAL (SELECT {bucket} AS bucket) AS here
    )
    SELECT count(*) FILTER (WHERE is_stored) AS stored, {_ARRAYS} FROM compared"""  # noqa: S608 — the same


_ARRAYS = ", ".join(
    f"coalesce(array_agg({column} ORDER BY symbol, timestamp) FILTER (WHERE what IS NOT NULL), '{{}}') AS {name}"
    for column, name in (
        ("symbol", "symbols"), ("timestamp", "times"), ("what", "whats"),
        ("array_to_string(found, ' ')", "found"), ("array_to_string(expected, ' ')", "expected"),
    )
)  # fmt: skip
