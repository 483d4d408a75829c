"""Closed months are written as Parquet files that hold exactly the rows, and a manifest that says so."""

from decimal import Decimal

import asyncpg
import pandas
import polars
import pytest
from pyarrow import parquet

from kraken_history.archive.place import Folder, read_manifest
from kraken_history.months import Month
from tests.archive.conftest import BTC, CLOSED, ETH, HOLE, REFUSED, archived

NOVEMBER = Month(2025, 11)


async def test_the_files_hold_the_rows_to_the_digit(history: asyncpg.Pool, place: Folder) -> None:
    outcomes = await archived(history, place)

    assert [(each.symbol, str(each.month), each.state) for each in outcomes] == [
        (symbol, month, "written") for symbol in (BTC, ETH) for month in CLOSED
    ]
    for table, relation in (("trades", "trades"), ("candles_1m", "candles")):
        for symbol in (BTC, ETH):
            found = []
            for month in CLOSED:
                path = place.folder / table / f"symbol={symbol.replace('/', '-')}" / f"month={month}.parquet"
                found += parquet.ParquetFile(path).read().to_pylist()
            for row in found:
                del row["scales"]
            names = ", ".join(found[0])
            rows = await history.fetch(
                f"SELECT {names} FROM {relation} WHERE symbol = $1 ORDER BY timestamp",  # noqa: S608
                symbol,
            )
            assert found == [dict(row) for row in rows]


async def test_the_manifest_says_what_is_held_and_what_is_proven(history: asyncpg.Pool, place: Folder) -> None:
    await archived(history, place)

    entry = read_manifest(place, BTC).latest(NOVEMBER)
    assert entry is not None
    trades, candles = entry.objects["trades"], entry.objects["candles_1m"]
    rows = await history.fetchrow(
        "SELECT count(*), sum(volume), min(id), max(id) FROM trades WHERE symbol = $1 AND timestamp >= $2"
        " AND timestamp < $3", BTC, NOVEMBER.start, NOVEMBER.end,
    )  # fmt: skip
    assert rows is not None
    assert (trades.rows, trades.sums["volume"]) == (rows["count"], rows["sum"])
    assert entry.ids.holes - type(entry.ids)(entry.absent) == type(entry.ids)([(HOLE.start, HOLE.stop)])
    assert (REFUSED, REFUSED + 1) in entry.absent
    assert (entry.held[0][0], entry.held[-1][1]) == (rows["min"], rows["max"] + 1)
    assert candles.sources == {"trades": rows["count"], "ohlc": 2, "csv": 1}
    assert entry.proven
    assert entry.proven[0][0] == NOVEMBER.start
    assert any(a[1] < b[0] for a, b in zip(entry.proven, entry.proven[1:], strict=False)), "the hole is not proven"
    whole = read_manifest(place, ETH).latest(NOVEMBER)
    assert whole is not None
    assert list(whole.proven) == [(NOVEMBER.start, NOVEMBER.end)]


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_nothing_is_written_again_unless_it_changed(history: asyncpg.Pool, place: Folder) -> None:
    await archived(history, place)
    before = {path: place.read(path) for path in place.list()}

    outcomes = await archived(history, place)

    assert {each.state for each in outcomes} == {"current"}
    assert {path: place.read(path) for path in place.list()} == before


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_polars_and_pandas_read_the_files_by_themselves(history: asyncpg.Pool, place: Folder) -> None:
    await archived(history, place)
    counted = await history.fetch("SELECT symbol, count(*) AS rows, sum(volume) AS volume FROM trades GROUP BY symbol")

    trades = polars.scan_parquet(f"{place.folder}/trades/**/*.parquet", hive_partitioning=True).collect()
    november = pandas.read_parquet(place.folder / "trades/symbol=BTC-USDT/month=2025-11.parquet")

    found = {
        symbol.replace("-", "/"): (len(group), group["volume"].sum()) for (symbol,), group in trades.group_by("symbol")
    }
    assert found == {row["symbol"]: (row["rows"], row["volume"]) for row in counted}
    assert november["price"].map(type).unique().tolist() == [Decimal]
    assert november["timestamp"].is_monotonic_increasing
