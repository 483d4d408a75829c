"""Trades as columns hold what :meth:`get_trades` returns."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pandas
import polars
import pyarrow
import pytest

from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.errors import InvalidChoice, InvalidRange, UnknownSymbol, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from tests.columns.conftest import END, START, SYMBOL

FIELDS = list(HistoricalTrade.__struct_fields__)
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def as_floats(trades: list[HistoricalTrade]) -> list[dict[str, Any]]:
    return [
        {name: float(value) if isinstance(value := getattr(trade, name), Decimal) else value for name in FIELDS}
        for trade in trades
    ]


async def test_the_columns_equal_the_records(provider: HistoricalDataProvider) -> None:
    start, end = START + timedelta(hours=5, microseconds=1), END - timedelta(days=2)
    trades = await provider.get_trades(SYMBOL, start, end)

    table = await provider.get_trades_arrow("xbtusdt", start, end)
    floats = await provider.get_trades_arrow(SYMBOL, start, end, numbers="float")

    assert len(trades) > 500
    assert [HistoricalTrade(**row) for row in table.to_pylist()] == trades
    assert floats.to_pylist() == as_floats(trades)


@POSTGRESQL
async def test_the_types_do_not_depend_on_the_rows(provider: HistoricalDataProvider) -> None:
    full = await provider.get_trades_arrow(SYMBOL, START, END, gaps="ignore")
    nothing = await provider.get_trades_arrow(SYMBOL, END, END + timedelta(days=1), gaps="ignore")

    assert full.schema == nothing.schema
    assert full.schema.names == FIELDS
    assert [str(field.type) for field in full.schema] == [
        "int64", "string", "timestamp[us, tz=UTC]", "decimal128(38, 18)", "decimal128(38, 18)", "string", "string",
        "string",
    ]  # fmt: skip
    assert nothing.num_rows == 0


@POSTGRESQL
async def test_the_last_instant_of_the_range_is_left_out(provider: HistoricalDataProvider) -> None:
    trades = await provider.get_trades(SYMBOL, START, END, gaps="ignore")

    table = await provider.get_trades_arrow(SYMBOL, trades[3].timestamp, trades[9].timestamp)

    assert table["id"].to_pylist() == [trade.id for trade in trades[3:9]]


@POSTGRESQL
async def test_frames_of_polars_and_pandas(provider: HistoricalDataProvider) -> None:
    trades = as_floats(await provider.get_trades(SYMBOL, START, END, gaps="ignore"))

    frame = await provider.get_trades_frame(SYMBOL, START, END, gaps="ignore")
    indexed = await provider.get_trades_frame(SYMBOL, START, END, as_="pandas", gaps="ignore")

    assert isinstance(frame, polars.DataFrame)
    assert frame.to_dicts() == trades
    assert isinstance(indexed.index, pandas.DatetimeIndex)
    assert str(indexed.index.tz) == "UTC"
    assert indexed.reset_index()[FIELDS].to_dict("records") == trades


@POSTGRESQL
async def test_a_number_that_no_decimal_holds_is_refused(pool: asyncpg.Pool, provider: HistoricalDataProvider) -> None:
    await pool.execute("UPDATE trades SET price = 123456789012345678901 WHERE id = 400")

    with pytest.raises(UsageError, match="read with numbers='float'"):
        await provider.get_trades_arrow(SYMBOL, START, END, gaps="ignore")
    assert (await provider.get_trades_arrow(SYMBOL, START, END, numbers="float", gaps="ignore")).num_rows == 849


@POSTGRESQL
async def test_wrong_arguments_are_refused(provider: HistoricalDataProvider) -> None:
    with pytest.raises(UnknownSymbol):
        await provider.get_trades_arrow("FOO/BAR", START, END)
    with pytest.raises(InvalidRange):
        await provider.get_trades_arrow(SYMBOL, END, START)
    with pytest.raises(InvalidChoice):
        await provider.get_trades_arrow(SYMBOL, START, END, numbers="int")  # type: ignore[arg-type]
    with pytest.raises(InvalidChoice):
        await provider.get_trades_frame(SYMBOL, START, END, as_="numpy")  # type: ignore[call-overload]


@POSTGRESQL
async def test_a_symbol_with_candles_only_has_no_trades(pool: asyncpg.Pool, provider: HistoricalDataProvider) -> None:
    await pool.execute("UPDATE data_sync_status SET symbol = 'SOL/USDT' WHERE data_type = 'candles_1m'")

    table = await provider.get_trades_arrow("SOL/USDT", START, END, gaps="ignore")

    assert table.num_rows == 0


@POSTGRESQL
async def test_the_blocking_provider_has_them_too(provider: HistoricalDataProvider, migrated_database_url: str) -> None:
    def read() -> tuple[pyarrow.Table, polars.DataFrame]:
        with BlockingHistoricalDataProvider(migrated_database_url, 1, 1) as history:
            table = history.get_trades_arrow(SYMBOL, START, END, gaps="ignore")
            return table, history.get_trades_frame(SYMBOL, START, END, gaps="ignore")

    table, frame = await asyncio.to_thread(read)

    assert table.num_rows == frame.height == 849
