"""Columns hold what :meth:`get_candles` returns."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import asyncpg
import pandas
import polars
import pyarrow
import pytest

from kraken_history.errors import CoverageError, InvalidChoice, InvalidRange, InvalidTime, UnknownSymbol, UsageError
from kraken_history.intervals import VIEWS
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle
from tests.columns.conftest import END, START, SYMBOL
from tests.support.contents import stale_hours

FIELDS = HistoricalCandle.__struct_fields__
NUMBERS = ("open", "high", "low", "close", "volume", "quote_volume", "vwap")
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
Numbers = Literal["decimal", "float"]


def records(table: pyarrow.Table) -> list[HistoricalCandle]:
    return [HistoricalCandle(**row) for row in table.to_pylist()]


def floats(candles: list[HistoricalCandle]) -> list[dict[str, Any]]:
    return [{name: as_float(getattr(candle, name)) for name in FIELDS} for candle in candles]


def as_float(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


async def test_every_interval_equals_the_records(pool: asyncpg.Pool, stale_provider: HistoricalDataProvider) -> None:
    provider, start, end = stale_provider, START + timedelta(hours=5, minutes=3, seconds=1), END + timedelta(days=30)
    assert await stale_hours(pool, SYMBOL)

    for interval in (*VIEWS, 2, 7, 45, 120, 2880, 20160):
        candles = await provider.get_candles(SYMBOL, interval, start, end, gaps="ignore")
        table = await provider.get_candles_arrow(SYMBOL, interval, start, end, gaps="ignore")
        as_floats = await provider.get_candles_arrow(SYMBOL, interval, start, end, numbers="float", gaps="ignore")

        assert candles
        assert records(table) == candles
        assert as_floats.to_pylist() == floats(candles)


@POSTGRESQL
@pytest.mark.parametrize(("numbers", "type_"), [("decimal", pyarrow.decimal128(38, 18)), ("float", pyarrow.float64())])
async def test_the_columns_are_the_fields_of_a_candle(
    numbers: Numbers, type_: pyarrow.DataType, provider: HistoricalDataProvider
) -> None:
    full = await provider.get_candles_arrow(SYMBOL, 1, START, END, numbers=numbers, gaps="ignore")
    nothing = await provider.get_candles_arrow(SYMBOL, 1, END, END + timedelta(days=1), numbers=numbers, gaps="ignore")
    no_bucket = await provider.get_candles_arrow(
        SYMBOL, 60, START, START + timedelta(minutes=5), numbers=numbers, gaps="ignore"
    )

    assert full.schema == nothing.schema == no_bucket.schema
    assert full.schema.names == list(FIELDS)
    others = {field.name: str(field.type) for field in full.schema if field.name not in NUMBERS}
    assert list(others.values()) == ["string", "timestamp[us, tz=UTC]", "int32", "int64", "string"]
    assert {full.schema.field(name).type for name in NUMBERS} == {type_}
    assert (nothing.num_rows, no_bucket.num_rows) == (0, 0)


@POSTGRESQL
async def test_a_candle_that_is_not_closed_at_the_end_is_left_out(provider: HistoricalDataProvider) -> None:
    start, end = START + timedelta(minutes=1), START + timedelta(hours=30, minutes=59)

    table = await provider.get_candles_arrow(SYMBOL, 60, start, end, gaps="ignore")

    timestamps = [candle.timestamp for candle in records(table)]
    assert timestamps == sorted(timestamps)
    assert min(timestamps) >= START + timedelta(hours=1)
    assert max(timestamps) <= START + timedelta(hours=29)


@POSTGRESQL
async def test_a_polars_frame_has_the_time_as_a_column(provider: HistoricalDataProvider) -> None:
    candles = await provider.get_candles(SYMBOL, 60, START, END, gaps="ignore")

    frame = await provider.get_candles_frame(SYMBOL, 60, START, END, gaps="ignore")

    assert frame.columns == list(FIELDS)
    assert frame.schema["timestamp"] == polars.Datetime("us", "UTC")
    assert {frame.schema[name] for name in NUMBERS} == {polars.Float64()}
    assert frame.to_dicts() == floats(candles)


@POSTGRESQL
async def test_a_pandas_frame_has_the_time_as_its_index(provider: HistoricalDataProvider) -> None:
    candles = await provider.get_candles(SYMBOL, 60, START, END, gaps="ignore")

    frame = await provider.get_candles_frame(SYMBOL, 60, START, END, as_="pandas", gaps="ignore")

    assert isinstance(frame.index, pandas.DatetimeIndex)
    assert (frame.index.name, str(frame.index.tz)) == ("timestamp", "UTC")
    assert list(frame.index) == [candle.timestamp for candle in candles]
    assert {str(frame[name].dtype) for name in NUMBERS} == {"float64"}
    assert frame.reset_index()[list(FIELDS)].to_dict("records") == floats(candles)


@POSTGRESQL
async def test_an_empty_frame_has_its_columns(provider: HistoricalDataProvider) -> None:
    frame = await provider.get_candles_frame(SYMBOL, 1, END, END + timedelta(days=1), as_="pandas", gaps="ignore")
    columns = await provider.get_candles_frame(SYMBOL, 1, END, END + timedelta(days=1), gaps="ignore")

    assert frame.empty
    assert isinstance(frame.index, pandas.DatetimeIndex)
    assert columns.columns == list(FIELDS)


@POSTGRESQL
@pytest.mark.parametrize("digits", ["0.0000000000000000001", "123456789012345678901"])
async def test_a_number_that_no_decimal_holds_is_refused(
    digits: str, pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    await pool.execute(f"UPDATE candles SET quote_volume = {digits}")  # noqa: S608 — a constant of this test

    with pytest.raises(UsageError, match=r"BTC/USDT: expected numbers of at most 20 digits .* numbers='float'"):
        await provider.get_candles_arrow(SYMBOL, 1, START, END, gaps="ignore")
    table = await provider.get_candles_arrow(SYMBOL, 1, START, END, numbers="float", gaps="ignore")

    assert set(table["quote_volume"].to_pylist()) == {float(digits)}


@POSTGRESQL
async def test_what_is_missing_can_be_an_error(provider: HistoricalDataProvider) -> None:
    with pytest.raises(CoverageError) as caught:
        await provider.get_candles_arrow(SYMBOL, 60, START, END + timedelta(days=9), gaps="raise")
    with pytest.raises(CoverageError):
        await provider.get_candles_frame(SYMBOL, 60, START, END + timedelta(days=9), gaps="raise")
    start, end = START + timedelta(days=1), END - timedelta(days=1)
    covered = await provider.get_candles_arrow(SYMBOL, 60, start, end, gaps="raise")

    assert caught.value.gaps[-1].end == END + timedelta(days=9)
    assert covered.num_rows > 100


@POSTGRESQL
async def test_what_cannot_be_is_refused(provider: HistoricalDataProvider) -> None:
    options: Any = {"numbers": "text"}
    with pytest.raises(InvalidChoice, match="decimal, float"):
        await provider.get_candles_arrow(SYMBOL, 1, START, END, **options)
    options = {"gaps": "skip"}
    with pytest.raises(InvalidChoice, match="ignore, raise, pad, fill"):
        await provider.get_candles_frame(SYMBOL, 1, START, END, **options)
    options = {"as_": "numpy"}
    with pytest.raises(InvalidChoice, match="polars, pandas"):
        await provider.get_candles_frame(SYMBOL, 1, START, END, **options)
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await provider.get_candles_arrow("DOGE/USD", 1, START, END, gaps="ignore")
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await provider.get_candles_arrow("DOGE/USD", 1, START, END, gaps="raise")
    with pytest.raises(UnknownSymbol):
        await provider.get_candles_arrow("'; DROP TABLE candles; --", 1, START, END, gaps="ignore")
    with pytest.raises(InvalidRange):
        await provider.get_candles_arrow(SYMBOL, 1, END, START, gaps="ignore")
    with pytest.raises(InvalidTime):
        await provider.get_candles_arrow(SYMBOL, 1, datetime(2026, 1, 1), END, gaps="ignore")  # noqa: DTZ001 — what is refused
