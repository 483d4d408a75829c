"""The rules for candles, each in one place. The other modules build their statements from them.

* The vwap is cut to ten decimals: :func:`vwap`, as :func:`kraken_history.records.truncated_vwap` in Python.
* A one-minute candle of trades: :data:`OF_TRADES`, as :mod:`~kraken_history.storing.candle_deltas` in Python.
* A longer candle of shorter ones: :func:`longer_candles`, as the views in the schema.
* Of two candles of one minute the fuller one is kept: :func:`is_fuller`, as :func:`strength` in Python. The exception
  is in :mod:`~kraken_history.storing.contested`: if a minute is proven complete, its own candle is kept.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import get_args

from kraken_history.records import VWAP_DECIMALS, CandleSource, HistoricalCandle

VALUES = ("open", "high", "low", "close", "volume", "quote_volume", "trade_count", "vwap")
"""The columns of ``candles`` that are computed from trades or given by the exchange."""

TRADE_IDS = ("first_trade_id", "last_trade_id")
"""The columns that only a candle of source ``trades`` has."""


def assigned(columns: Iterable[str], table: str) -> str:
    """A SET list that takes these columns from another row."""
    return ", ".join(f"{column} = {table}.{column}" for column in columns)


def row(columns: Iterable[str], table: str) -> str:
    """A row of a table's columns, for comparing. A column with a minus before it is negated."""
    signed = (f"-{table}.{column[1:]}" if column.startswith("-") else f"{table}.{column}" for column in columns)
    return f"({', '.join(signed)})"


def vwap(quote_volume: str, volume: str) -> str:
    """An expression for the quotient, cut (not rounded) to ten decimals. The volume must not be zero."""
    return f"div({quote_volume} * {10**VWAP_DECIMALS}, {volume}) * {Decimal(1).scaleb(-VWAP_DECIMALS):f}"


OF_TRADES = f"""
    (array_agg(t.price ORDER BY t.id))[1] AS open, max(t.price) AS high, min(t.price) AS low,
    (array_agg(t.price ORDER BY t.id DESC))[1] AS close, sum(t.volume) AS volume,
    sum(t.price * t.volume) AS quote_volume, count(*)::integer AS trade_count,
    {vwap("sum(t.price * t.volume)", "sum(t.volume)")} AS vwap,
    'trades'::candle_source AS source, min(t.id) AS first_trade_id, max(t.id) AS last_trade_id
"""
"""A select list: the candle of the trades ``t`` of a group. Ids determine open and close: times are not unique."""


def longer_candles(source: str, minutes: int) -> str:
    """A query for candles of ``minutes``, built on a query for shorter ones. Candles without volume have vwap 0.

    The source is the weakest of the shorter ones; an unknown one counts as the weakest.

    The result equals that of the views of the longer intervals, digit for digit.
    """
    return f"""
    SELECT symbol,
           date_bin(interval '{minutes} minutes', timestamp, timestamptz '2000-01-03 00:00:00+00') AS timestamp,
           {minutes} AS interval_minutes,
           (array_agg(open ORDER BY timestamp))[1] AS open, max(high) AS high, min(low) AS low,
           (array_agg(close ORDER BY timestamp DESC))[1] AS close, sum(volume) AS volume,
           sum(quote_volume) AS quote_volume, sum(trade_count)::bigint AS trade_count,
           coalesce({vwap("sum(quote_volume)", "nullif(sum(volume), 0)")}, 0) AS vwap,
           min(coalesce(source, 'ohlc')) AS source
    FROM ({source}) AS s GROUP BY 1, 2"""  # noqa: S608 — only our own SQL and a number are put in


_FULLNESS = ("trade_count", "source")
# The further columns break ties between candles of equal count and source, so that the order of writes does not matter.
_STRENGTH = (*_FULLNESS, "volume", "high", "-low", "quote_volume", "vwap", "open", "close")
_RANKS: dict[CandleSource, int] = {source: rank for rank, source in enumerate(get_args(CandleSource))}


def is_fuller(offered: str, stored: str) -> str:
    """A condition: the row ``offered`` replaces the row ``stored``. It orders any two different candles."""
    return f"{row(_STRENGTH, offered)} > {row(_STRENGTH, stored)}"


def is_full_enough(built: str, stored: str) -> str:
    """A condition: a row built from all stored trades of its minute is at least as full as the row ``stored``.

    Unlike :func:`is_fuller` it allows another candle of source ``trades`` with the same count to be replaced, because
    the candle computed from the trades is right.
    """
    return f"{row(_FULLNESS, built)} >= {row(_FULLNESS, stored)}"


def strength(candle: HistoricalCandle, source: CandleSource) -> tuple[object, ...]:
    """A key that orders the candles of one minute as :func:`is_fuller` does."""
    c = candle
    # copy_negate, because unary minus rounds to the precision of the thread's context.
    low = c.low.copy_negate()
    return (c.trade_count, _RANKS[source], c.volume, c.high, low, c.quote_volume, c.vwap, c.open, c.close)
