"""The drill: archive, drop by retention, read, restore into an empty database; equal to the digit all the way."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from kraken_history import CoverageError, HistoricalDataProvider, UsageError
from kraken_history.archive.checking import find_held
from kraken_history.archive.place import Folder
from kraken_history.archive.restoring import restore
from kraken_history.months import Month
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.retention import drop_old, find_months_to_drop
from kraken_history.storing.store import Store
from tests.archive.conftest import BTC, ETH, HOLE, START, STEP, archived, trade
from tests.archive.test_restoring import content

DECEMBER = Month(2025, 12)
FROM, TO = START + STEP, datetime.fromisoformat("2025-12-20T00:00:00+00:00")


@pytest.fixture
async def reader(migrated_database_url: str, place: Folder) -> AsyncIterator[HistoricalDataProvider]:
    """A provider with the archive."""
    async with HistoricalDataProvider(migrated_database_url, 1, 2, archive=str(place.folder)) as provider:
        yield provider


@pytest.fixture
async def plain(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    """A provider without it."""
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as provider:
        yield provider


async def read(provider: HistoricalDataProvider, symbol: str, **options: Any) -> list[Any]:
    """All that a provider reads from an archive: tables of decimals and floats, and a frame."""
    span = symbol, 1, FROM, TO
    return [
        await provider.get_candles_arrow(*span, **options),
        await provider.get_candles_arrow(*span, numbers="float", **options),
        await provider.get_trades_arrow(symbol, FROM, TO, **options),
        await provider.get_trades_arrow(symbol, FROM, TO, numbers="float", **options),
        (await provider.get_candles_frame(*span, **options)).to_arrow(),
    ]


async def drop(pool: asyncpg.Pool, place: Folder, until: datetime) -> None:
    cutoffs = {"trades": until, "candles": until}
    await refresh(pool)
    held = await find_held(pool, place, await find_months_to_drop(pool, cutoffs))
    dropped = await drop_old(pool, cutoffs, held=held)
    assert dropped["trades"] > 0
    assert dropped["candles"] > 0


async def test_dropped_history_is_read_from_the_archive_and_restored_to_the_digit(
    history: asyncpg.Pool,
    other: asyncpg.Pool,
    place: Folder,
    reader: HistoricalDataProvider,
    plain: HistoricalDataProvider,
) -> None:
    before, rows = await read(plain, ETH), await content(history)
    ignoring = await read(plain, BTC, gaps="ignore")
    await archived(history, place)
    assert await read(reader, ETH) == before
    padded = [await each.get_candles_arrow(ETH, 1, FROM, FROM + STEP, gaps="pad") for each in (reader, plain)]
    assert padded[0] == padded[1]

    await drop(history, place, DECEMBER.start + timedelta(days=6))

    assert await read(reader, ETH) == before, "raises if a part is missing"
    assert await read(reader, BTC, gaps="ignore") == ignoring
    with pytest.raises(CoverageError):
        await plain.get_trades_arrow(ETH, FROM, TO)
    with pytest.raises(CoverageError) as error:
        await reader.get_trades_arrow(BTC, FROM, TO)
    hole = trade(HOLE.start).timestamp
    assert any(gap.start <= hole < gap.end for gap in error.value.gaps), "what was never stored is still missing"
    with pytest.raises(UsageError, match="for time that retention dropped, got 'pad'"):
        await reader.get_candles_arrow(ETH, 1, FROM, TO, gaps="pad")

    async for _ in restore(other, place):
        pass
    found = await content(other)
    assert [found[0], found[1], found[3][0][:4], found[4], found[5]] == [
        rows[0], rows[1], rows[3][0][:4], (await content(history))[4], rows[5]
    ]  # fmt: skip


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_month_that_changed_is_read_from_the_database(
    history: asyncpg.Pool, place: Folder, reader: HistoricalDataProvider, plain: HistoricalDataProvider
) -> None:
    await archived(history, place)
    await Store(history).write([trade(id_) for id_ in HOLE])

    assert await read(reader, BTC, gaps="ignore") == await read(plain, BTC, gaps="ignore")
    ids = (await reader.get_trades_arrow(BTC, FROM, TO))["id"].to_pylist()
    assert set(HOLE) < set(ids)
