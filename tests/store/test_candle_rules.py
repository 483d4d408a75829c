"""The rules for candles stand in SQL and in Python, and in the views of the schema: all say the same."""

import re
from decimal import Decimal
from pathlib import Path
from typing import get_args

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kraken_history.records import CandleSource, HistoricalCandle
from kraken_history.storing.candle_rules import is_full_enough, is_fuller, longer_candles, strength, vwap
from kraken_history.storing.candle_writing import fullest
from kraken_history.storing.longer_intervals import AGGREGATES
from tests.support.examples import make_candle

SCHEMA = Path(__file__).resolve().parents[2] / "schema"
FIELDS = ("volume", "high", "low", "quote_volume", "vwap", "open", "close")

# Few, so that many are equal. Two have more digits than Python's usual arithmetic keeps.
NUMBERS = st.sampled_from(
    [Decimal(text) for text in ("1", "1.0", "2", "1234567890123456789012345678.91", "1234567890123456789012345678.92")]
)


@st.composite
def sourced_candles(draw: st.DrawFn) -> tuple[HistoricalCandle, CandleSource]:
    values = {field: draw(NUMBERS) for field in FIELDS}
    candle = replace(make_candle(), trade_count=draw(st.sampled_from((1, 2, 2**31 - 1))), **values)
    return candle, draw(st.sampled_from(get_args(CandleSource)))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[tuple[HistoricalCandle, CandleSource], tuple[HistoricalCandle, CandleSource]]:
    """Two candles that differ in one field, mostly: each has to be seen."""
    candle, source = draw(sourced_candles())
    other, other_source = draw(sourced_candles())
    same = draw(st.sets(st.sampled_from(("source", "trade_count", *FIELDS)), min_size=5))
    other = replace(other, **{field: getattr(candle, field) for field in same - {"source"}})
    return (candle, source), (other, source if "source" in same else other_source)


_ROW = """
    SELECT $1::bigint AS trade_count, $2::text::candle_source AS source, $3::numeric AS volume, $4::numeric AS high,
           $5::numeric AS low, $6::numeric AS quote_volume, $7::numeric AS vwap, $8::numeric AS open,
           $9::numeric AS close
"""


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(pair=pairs())
async def test_sql_and_python_order_any_two_candles_alike(
    pool: asyncpg.Pool,
    pair: tuple[tuple[HistoricalCandle, CandleSource], tuple[HistoricalCandle, CandleSource]],
) -> None:
    a, b = pair
    # The second row's parameters come after those of the first.
    second = _ROW
    for n in range(9, 0, -1):
        second = second.replace(f"${n}::", f"${n + 9}::")
    row = await pool.fetchrow(
        f"SELECT {is_fuller('a', 'b')} AS is_fuller, {is_full_enough('a', 'b')} AS is_full_enough"  # noqa: S608 — ours
        f" FROM ({_ROW}) AS a, ({second}) AS b",
        *_values(*a),
        *_values(*b),
    )

    assert row is not None
    assert row["is_fuller"] == (strength(*a) > strength(*b))
    assert row["is_full_enough"] == (strength(*a)[:2] >= strength(*b)[:2])


def _values(candle: HistoricalCandle, source: CandleSource) -> list[object]:
    return [candle.trade_count, source, *(getattr(candle, field) for field in FIELDS)]


def test_the_fullest_candle_does_not_depend_on_digits_that_a_minus_would_round_away() -> None:
    """``-low`` rounded to 28 digits, and of two candles the one that came first stayed; PostgreSQL rounds nothing."""
    low, lower = Decimal("1234567890123456789012345678.92"), Decimal("1234567890123456789012345678.91")
    one, other = replace(make_candle(), low=low), replace(make_candle(), low=lower)

    assert fullest([one, other], "ohlc") == fullest([other, one], "ohlc") == [other]


def test_views_of_the_schema_compute_what_longer_candles_computes() -> None:
    """Migrations that were applied do not change, so the schema has the rule once more."""
    tables = _words((SCHEMA / "0014_source_tables.sql").read_text())
    continuous = _words((SCHEMA / "0003_continuous_aggregates.sql").read_text())
    remade = _words((SCHEMA / "0014_source_continuous.sql").read_text())
    a_vwap = f"coalesce({vwap('sum(quote_volume)', 'nullif(sum(volume), 0)')}, 0) AS vwap"
    a_source = "min(coalesce(source, 'ohlc')) AS source FROM"

    assert tables.count(a_vwap) == continuous.count(a_vwap) == remade.count(a_vwap) == len(AGGREGATES) == 8
    assert tables.count(a_source) == remade.count(a_source) == 8
    assert "(min(coalesce(source, ''ohlc''))) STORED" in remade
    for aggregate in AGGREGATES:
        ours, _ = _words(longer_candles("source", aggregate.minutes)).split(" FROM (source)")
        in_schema = ours.replace(" AS interval_minutes", "::smallint AS interval_minutes")
        assert tables.count(f"{in_schema} FROM {aggregate.source} ") == 1


def _words(text: str) -> str:
    """The words of a statement, with every interval in minutes."""
    return re.sub(
        r"interval '(\d+) (hour|day|week)s?'",
        lambda found: f"interval '{int(found[1]) * _MINUTES[found[2]]} minutes'",
        " ".join(text.split()),
    )


_MINUTES = {"hour": 60, "day": 24 * 60, "week": 7 * 24 * 60}
