"""Whoever drops the rows below the longer intervals, and whatever is written there later: history is kept."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import asyncpg
import pytest

from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.store import Store
from tests.aggregates.truth import Rows, assert_right, grouped, marked_ranges, shown
from tests.support.examples import make_candle, make_trade

OLD = datetime(2025, 3, 3, tzinfo=UTC)  # a Monday, and the start of a partition
NOW = OLD + timedelta(days=60)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ALL = TimeRange(OLD - 300 * DAY, NOW - 7 * DAY)
How = Literal["delete", "drop"]


def history(symbol: str = "BTC/USDT") -> list[HistoricalTrade]:
    """Four weeks, three trades in each minute that has any."""
    return [
        make_trade(n, OLD + n // 3 * timedelta(minutes=71, seconds=20), f"{100 + n % 9}.5", symbol=symbol)
        for n in range(1, 1_600)
    ]


async def drop_old_rows(pool: asyncpg.Pool, how: How, before: datetime) -> None:
    """Drop what is older: by a statement, or by whole partitions or chunks."""
    for table, width in (("trades", DAY), ("candles", 7 * DAY)):
        if how == "delete":
            await pool.execute(f"DELETE FROM {table} WHERE timestamp < $1", before)  # noqa: S608 — of the line above
        elif await pool.fetchval("SELECT to_regclass('partition_widths') IS NULL"):
            await pool.execute("SELECT drop_chunks($1::text::regclass, older_than => $2::timestamptz)", table, before)
        else:
            partitions = await pool.fetch(
                "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass", table
            )
            for (name,) in partitions:
                if name <= f"{table}_{before - width:%Y%m%d}":
                    await pool.execute(f"DROP TABLE {name}")


async def everything(pool: asyncpg.Pool) -> dict[str, Rows]:
    return {aggregate.view: await shown(pool, aggregate) for aggregate in AGGREGATES}


@pytest.fixture
async def before(pool: asyncpg.Pool, store: Store) -> dict[str, Rows]:
    """What the intervals show of a history that is refreshed."""
    await store.write(history())
    await refresh(pool, now=NOW)
    await assert_right(pool)
    return await everything(pool)


@pytest.mark.parametrize("how", ["delete", "drop"])
async def test_a_refresh_over_dropped_rows_erases_nothing(
    pool: asyncpg.Pool, before: dict[str, Rows], how: How
) -> None:
    await drop_old_rows(pool, how, OLD + 16 * DAY)
    assert await everything(pool) == before
    assert await pool.fetchval("SELECT min(timestamp) FROM candles") > OLD + 10 * DAY

    await refresh(pool, within=ALL, now=NOW)
    await pool.execute(
        "INSERT INTO stale_hours SELECT symbol, $1, $2 FROM data_sync_status WHERE data_type = 'candles_1m'",
        ALL.start,
        ALL.end,
    )
    done = await refresh(pool, now=NOW)

    assert await everything(pool) == before
    assert sum(each.kept for each in done) > 0
    assert [await marked_ranges(pool, aggregate) for aggregate in AGGREGATES] == [[]] * 8


@pytest.mark.parametrize("how", ["delete", "drop"])
async def test_a_late_trade_and_a_late_candle_in_dropped_time_erase_nothing(
    pool: asyncpg.Pool, before: dict[str, Rows], how: How
) -> None:
    await drop_old_rows(pool, how, OLD + 16 * DAY)
    writer = Store(pool)
    late = history()[5].timestamp

    await writer.write([make_trade(9_001, late)], [make_candle(late + DAY, trade_count=1)])
    await refresh(pool, now=NOW)
    await refresh(pool, within=ALL, now=NOW)

    after = await everything(pool)
    for view, rows in before.items():
        assert {key: after[view].get(key) for key in rows} == rows


@pytest.mark.parametrize("how", ["delete", "drop"])
async def test_another_symbols_past_is_filled_in_beside_history_that_is_kept(
    pool: asyncpg.Pool, before: dict[str, Rows], how: How
) -> None:
    await drop_old_rows(pool, how, OLD + 16 * DAY)
    writer = Store(pool)

    await writer.write(history("ETH/USDT"))
    await refresh(pool, now=NOW)

    for aggregate in AGGREGATES:
        rows = await shown(pool, aggregate)
        eth = {key: row for key, row in (await grouped(pool, aggregate)).items() if key[0] == "ETH/USDT"}
        assert rows == before[aggregate.view] | eth, aggregate.view


@pytest.mark.parametrize("how", ["delete", "drop"])
async def test_rows_that_come_back_are_refreshed_as_ever(
    pool: asyncpg.Pool, store: Store, before: dict[str, Rows], how: How
) -> None:
    await drop_old_rows(pool, how, OLD + 30 * DAY)
    await pool.execute("DELETE FROM data_sync_status")
    await refresh(pool, within=ALL, now=NOW)

    fuller = [*history(), make_trade(9_001, OLD + timedelta(minutes=41), "555.5")]
    await Store(pool).write(fuller)
    await refresh(pool, now=NOW)

    await assert_right(pool)
    assert await everything(pool) != before


async def test_what_is_kept_of_the_hours_makes_the_day(pool: asyncpg.Pool, before: dict[str, Rows]) -> None:
    """The day is aggregated from its hours, of which one has lost its rows and another got a trade."""
    hours = sorted(at for _, at in before["candles_1h"])[:2]
    await pool.execute("DELETE FROM candles WHERE timestamp >= $1 AND timestamp < $1 + interval '1 hour'", hours[0])

    await Store(pool).write([make_trade(9_001, hours[1] + timedelta(minutes=1), "777.7", "0.5")])
    await refresh(pool, now=NOW)

    day = (await shown(pool, AGGREGATES[6]))["BTC/USDT", OLD]
    count_before = int(before["candles_1d"]["BTC/USDT", OLD][7])
    assert (int(day[7]), day[2]) == (count_before + 1, "777.7")
