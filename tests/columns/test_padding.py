"""Columns where it matters what is not there: every bucket has a row, and those that are made up are marked."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import asyncpg
import polars
import pyarrow
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import compute

from kraken_history.errors import InvalidChoice, UnknownSymbol, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.columns import candle_schema, padded_schema
from kraken_history.records import MINUTE, HistoricalCandle
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.columns.conftest import SYMBOL
from tests.support.examples import NOON, make_candle

FIELDS = HistoricalCandle.__struct_fields__
PADDED = [*FIELDS, "is_made_up"]
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
STRETCH = 600  # minutes


@pytest.fixture
async def patchy(pool: asyncpg.Pool, migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    """Ten hours of candles with gaps of all lengths, the first half refreshed."""
    rng = Random(5)
    minutes = sorted({at + n for at in rng.sample(range(STRETCH), 60) for n in range(rng.choice((1, 1, 2, 9)))})
    candles = [make_candle(NOON + n * MINUTE, close=f"{rng.randint(1, 10**6)}.5") for n in minutes]
    half = len(candles) // 2
    await Store(pool).write(candles=candles[:half], candle_source="csv")
    await refresh(pool)
    await Store(pool).write(candles=candles[half:], candle_source="csv")
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as opened:
        yield opened


def rows(candles: list[HistoricalCandle]) -> list[dict[str, Any]]:
    """What a table of these candles holds."""
    return [{name: getattr(candle, name) for name in PADDED} for candle in candles]


def floats(candles: list[HistoricalCandle]) -> list[dict[str, Any]]:
    return [
        {name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()}
        for row in rows(candles)
    ]


_bounds = st.lists(st.integers(-120, 60 * STRETCH + 7200), min_size=2, max_size=2, unique=True).map(sorted)


@settings(
    max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(bounds=_bounds, interval=st.sampled_from((1, 1, 2, 5, 15, 45, 60)))
async def test_a_padded_table_equals_the_padded_records(
    patchy: HistoricalDataProvider, bounds: list[int], interval: int
) -> None:
    start, end = (NOON + timedelta(seconds=each) for each in bounds)
    ask = (SYMBOL, interval, start, end)
    candles = await patchy.get_candles(*ask, gaps="pad")

    table = await patchy.get_candles_arrow(*ask, gaps="pad")
    as_floats = await patchy.get_candles_arrow(*ask, numbers="float", gaps="pad")
    frame = await patchy.get_candles_frame(*ask, gaps="pad")
    by_time = await patchy.get_candles_frame(*ask, as_="pandas", gaps="pad")

    assert (table.schema, as_floats.schema) == (padded_schema("decimal"), padded_schema("float"))
    assert table.to_pylist() == rows(candles)
    assert as_floats.to_pylist() == frame.to_dicts() == floats(candles)
    assert by_time.reset_index()[PADDED].to_dict("records") == floats(candles)


@POSTGRESQL
async def test_fill_is_another_name_of_pad(patchy: HistoricalDataProvider) -> None:
    ask = (SYMBOL, 5, NOON, NOON + STRETCH * MINUTE)
    table = await patchy.get_candles_arrow(*ask, gaps="pad")

    assert table["is_made_up"].to_pylist().count(True) > 0
    assert (await patchy.get_candles_arrow(*ask, gaps="fill")).equals(table)
    assert (await patchy.get_candles_frame(*ask, gaps="fill")).equals(await patchy.get_candles_frame(*ask, gaps="pad"))


@POSTGRESQL
async def test_only_a_padded_table_has_the_mark(patchy: HistoricalDataProvider) -> None:
    ask = (SYMBOL, 5, NOON, NOON + STRETCH * MINUTE)
    plain = await patchy.get_candles_arrow(*ask, gaps="ignore")
    table = await patchy.get_candles_arrow(*ask, gaps="pad")
    frame = await patchy.get_candles_frame(*ask, gaps="pad")
    by_time = await patchy.get_candles_frame(*ask, as_="pandas", gaps="pad")

    assert plain.schema.names == list(FIELDS)
    assert table.schema.names == PADDED
    assert table.filter(compute.invert(table["is_made_up"])).drop_columns("is_made_up").equals(plain)
    assert (frame.schema["is_made_up"], str(by_time["is_made_up"].dtype)) == (polars.Boolean(), "bool")
    assert by_time["is_made_up"].sum() == table.num_rows - plain.num_rows > 0


@POSTGRESQL
@pytest.mark.parametrize(
    ("start", "end"), [(NOON - 9 * MINUTE, NOON - 3 * MINUTE), (NOON + timedelta(seconds=1), NOON + 1.5 * MINUTE)]
)
async def test_before_the_first_close_and_without_a_whole_bucket_there_is_no_row(
    start: datetime, end: datetime, patchy: HistoricalDataProvider
) -> None:
    assert (await patchy.get_candles_arrow(SYMBOL, 1, start, end, gaps="pad")).equals(
        padded_schema("decimal").empty_table()
    )
    assert (await patchy.get_candles_frame(SYMBOL, 1, start, end, as_="pandas", gaps="pad")).empty


@POSTGRESQL
async def test_a_padded_table_stops_where_the_padded_records_do(
    pool: asyncpg.Pool, patchy: HistoricalDataProvider
) -> None:
    """At the present; but what is stored past it stays, with what is between."""
    now = (await pool.fetchval("SELECT now()")).replace(second=0, microsecond=0)
    ask = (SYMBOL, 1, now - 5 * MINUTE, now + 100 * MINUTE)
    before = await patchy.get_candles(*ask, gaps="pad")
    table = await patchy.get_candles_arrow(*ask, gaps="pad")
    after = await patchy.get_candles(*ask, gaps="pad")
    await Store(pool).write(candles=[make_candle(now + 9 * MINUTE)], candle_source="csv")
    further = await patchy.get_candles_arrow(*ask, gaps="pad")

    assert 5 <= len(before) <= table.num_rows <= len(after) < 14
    assert all(table["is_made_up"].to_pylist())
    assert further.to_pylist() == rows(await patchy.get_candles(*ask, gaps="pad"))
    assert further["is_made_up"].to_pylist() == [True] * 14 + [False]


@POSTGRESQL
async def test_a_last_close_that_no_decimal_holds_is_refused(
    pool: asyncpg.Pool, patchy: HistoricalDataProvider
) -> None:
    await pool.execute("UPDATE candles SET close = 0.0000000000000000001")
    ask = (SYMBOL, 1, NOON + 2 * STRETCH * MINUTE, NOON + 3 * STRETCH * MINUTE)

    with pytest.raises(UsageError, match=r"BTC/USDT: expected numbers of at most 20 digits .* numbers='float'"):
        await patchy.get_candles_arrow(*ask, gaps="pad")
    table = await patchy.get_candles_arrow(*ask, numbers="float", gaps="pad")

    assert set(table["close"].to_pylist()) == {1e-19}


@POSTGRESQL
async def test_what_cannot_be_is_refused(patchy: HistoricalDataProvider) -> None:
    options: Any = {"gaps": "skip"}
    with pytest.raises(InvalidChoice, match="one of ignore, raise, pad, fill, got 'skip'"):
        await patchy.get_candles_arrow(SYMBOL, 1, NOON, NOON + MINUTE, **options)
    for end in (NOON + MINUTE, NOON + timedelta(seconds=9)):
        with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
            await patchy.get_candles_arrow("DOGE/USD", 1, NOON, end, gaps="pad")


def test_the_columns_are_those_of_a_candle_and_the_mark() -> None:
    assert list(padded_schema("decimal"))[:-1] == list(candle_schema("decimal"))
    assert padded_schema("decimal").field("is_made_up").type == pyarrow.bool_()
