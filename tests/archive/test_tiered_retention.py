"""With an archive, retention drops only what the archive provably holds."""

from datetime import datetime

import asyncpg
import pytest

from kraken_history.archive.checking import find_held
from kraken_history.archive.place import Folder
from kraken_history.months import Month
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.retention import drop_old, find_months_to_drop
from kraken_history.storing.store import Store
from tests.archive.conftest import BTC, HOLE, archived, trade

NOVEMBER, DECEMBER = Month(2025, 11), Month(2025, 12)


async def dropped(pool: asyncpg.Pool, place: Folder, until: datetime) -> tuple[dict[str, int], set[tuple[str, Month]]]:
    """What retention dropped, and the symbols and months for which it kept a partition."""
    cutoffs = {"trades": until, "candles": until}
    held = await find_held(pool, place, await find_months_to_drop(pool, cutoffs))
    kept: set[tuple[str, Month]] = set()
    counts = await drop_old(pool, cutoffs, held=held, on_kept=lambda _, __, symbol, month: kept.add((symbol, month)))
    return counts, kept


async def oldest(pool: asyncpg.Pool, table: str) -> datetime:
    found: datetime = await pool.fetchval(f"SELECT min(timestamp) FROM {table}")  # noqa: S608
    return found


async def test_what_is_archived_is_dropped_and_what_changed_since_is_kept(history: asyncpg.Pool, place: Folder) -> None:
    await refresh(history)
    first = await oldest(history, "trades")
    assert (await dropped(history, place, DECEMBER.end))[0] == {"trades": 0, "candles": 0}, "there is no archive yet"
    await archived(history, place)
    await Store(history).write([trade(HOLE.start)])

    counts, kept = await dropped(history, place, DECEMBER.end)

    assert kept == {(BTC, NOVEMBER)}
    assert counts["trades"] > 0
    assert first < NOVEMBER.start <= await oldest(history, "trades") < DECEMBER.start
    await refresh(history)
    await archived(history, place)
    counts, kept = await dropped(history, place, DECEMBER.start)
    assert kept == set()
    assert await oldest(history, "trades") >= DECEMBER.start


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_damaged_or_lost_file_holds_nothing(history: asyncpg.Pool, place: Folder) -> None:
    await refresh(history)
    await archived(history, place)
    (place.folder / "candles_1m/symbol=ETH-USDT/month=2025-11.parquet").unlink()
    path = place.folder / "trades/symbol=BTC-USDT/month=2025-11.parquet"
    path.write_bytes(path.read_bytes()[:-1])

    held = await find_held(history, place, [NOVEMBER])

    assert {(table, symbol) for table, symbol, _ in held} == {("candles", BTC), ("trades", "ETH/USDT")}
