"""A database that is restored from the archive has the same rows, ledger and candles, to the digit."""

from typing import Any

import asyncpg
import pytest

from kraken_history.archive import restoring
from kraken_history.archive.manifest import ArchiveError
from kraken_history.archive.place import Folder
from kraken_history.archive.restoring import RestoredMonth, restore
from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.errors import UsageError
from kraken_history.reading.verification import verify
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.archive.conftest import BTC, CLOSED, ETH, archived, trade


async def restored(pool: asyncpg.Pool, place: Folder, *symbols: str) -> list[RestoredMonth]:
    return [month async for month in restore(pool, place, symbols or None)]


async def content(pool: asyncpg.Pool) -> list[Any]:
    """All that the archive must bring back, to the last digit."""
    trades = await pool.fetch("SELECT t.*, t.*::text AS digits FROM trades t ORDER BY symbol, id, timestamp")
    candles = await pool.fetch("SELECT c.*, c.*::text AS digits FROM candles c ORDER BY symbol, timestamp")
    hours = await pool.fetch("SELECT * FROM candles_1h ORDER BY symbol, timestamp")
    ledger = await pool.fetch(
        f"""
        SELECT s.symbol, s.oldest_timestamp, s.newest_timestamp, s.total_records, s.lowest_id, s.lowest_time,
               s.highest_id, s.highest_time, held_ids(s.symbol) AS held,
               {COVERED_BY_TRADES} AS covered, c.oldest_timestamp AS oldest, c.newest_timestamp AS newest,
               c.total_records AS candles, c.time_ranges
        FROM data_sync_status s JOIN data_sync_status c ON c.symbol = s.symbol AND c.data_type = 'candles_1m'
        WHERE s.data_type = 'trades' ORDER BY s.symbol
        """  # noqa: S608
    )
    unheld = await pool.fetch(
        "SELECT symbol, first_id, stop_id, missing, after_time, before_time FROM unheld_ids ORDER BY symbol, first_id"
    )
    absent = await pool.fetch("SELECT * FROM absent_ids ORDER BY symbol, first_id")
    versions = await pool.fetch("SELECT * FROM archived_months ORDER BY symbol, month")
    contested = await pool.fetch("SELECT * FROM contested_minutes ORDER BY symbol, timestamp")
    return [trades, candles, hours, ledger, unheld, absent, versions, contested]


async def test_a_restored_database_equals_the_archived_one(
    history: asyncpg.Pool, other: asyncpg.Pool, place: Folder
) -> None:
    await archived(history, place)

    outcomes = await restored(other, place)

    assert [(each.symbol, str(each.month), each.state) for each in outcomes] == [
        (symbol, month, "restored") for symbol in (BTC, ETH) for month in CLOSED
    ]
    assert await content(other) == await content(history)
    await refresh(other)
    async with other.acquire() as connection:
        assert (await verify(connection)).differences == []


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_restoring_again_changes_nothing(history: asyncpg.Pool, other: asyncpg.Pool, place: Folder) -> None:
    await archived(history, place)
    await restored(other, place, BTC)
    before = await content(other)

    outcomes = await restored(other, place, BTC)

    assert {each.state for each in outcomes} == {"current"}
    assert await content(other) == before


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_restored_database_continues_the_archive(
    history: asyncpg.Pool, other: asyncpg.Pool, place: Folder
) -> None:
    await archived(history, place)
    await restored(other, place)

    assert {each.state for each in await archived(other, place)} == {"current"}

    await Store(other).write([trade(8)])
    changed = [str(each.month) for each in await archived(other, place) if each.state != "current"]
    assert changed == ["2025-11"]


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_database_with_other_data_of_a_month_is_left_alone(
    history: asyncpg.Pool, other: asyncpg.Pool, place: Folder
) -> None:
    await archived(history, place)
    await Store(other).write([trade(5)])
    before = await content(other)

    with pytest.raises(UsageError, match="BTC/USDT 2025-11, got one that has some: restore into an empty database"):
        await restored(other, place, BTC)

    after = await content(other)
    assert [row for row in after[0] if row["id"] == 5] == before[0]


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_damaged_file_is_not_restored(history: asyncpg.Pool, other: asyncpg.Pool, place: Folder) -> None:
    await archived(history, place)
    path = place.folder / "trades/symbol=BTC-USDT/month=2025-11.parquet"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(ArchiveError, match=r"month=2025-11.parquet in .* is damaged: expected SHA-256"):
        await restored(other, place)

    assert {row["month"].isoformat() for row in await other.fetch("SELECT month FROM archived_months")} == {
        "2025-10-01"
    }


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_restore_that_ends_in_a_month_is_completed_by_the_next_one(
    history: asyncpg.Pool, other: asyncpg.Pool, place: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archived(history, place)
    write = restoring._csv_of
    parts = iter(range(4))  # November's trades are the fourth file of BTC/USDT

    def written(*arguments: Any) -> bytes:
        if next(parts, None) is None:
            raise OSError("the disk is gone")
        return write(*arguments)

    monkeypatch.setattr(restoring, "_csv_of", written)
    with pytest.raises(OSError, match="the disk is gone"):
        await restored(other, place)
    months = await other.fetch("SELECT month::text FROM archived_months ORDER BY 1")
    stored = await other.fetch("SELECT DISTINCT date_trunc('month', timestamp)::date::text AS month FROM trades")
    monkeypatch.setattr(restoring, "_csv_of", write)

    outcomes = await restored(other, place)

    assert [row["month"] for row in months] == sorted(row["month"] for row in stored) != []
    assert [each.state for each in outcomes].count("current") == len(months) < len(outcomes)
    assert await content(other) == await content(history)
