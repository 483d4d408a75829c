"""Where PostgreSQL has no hypertables, the store makes partitions on demand."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.storing.store import Store
from tests.support.contents import stored_candles, stored_trades
from tests.support.examples import make_candle, make_trade

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
hypertables_only = pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)


async def partitions(pool: asyncpg.Pool, parent: str) -> dict[str, str]:
    """By name, the bounds in UTC."""
    async with pool.acquire() as connection:
        await connection.execute("SET timezone = 'UTC'")
        rows = await connection.fetch(
            """
            SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass ORDER BY c.relname
            """,
            parent,
        )
    return {row["name"]: row["bounds"].replace("+00'", "'") for row in rows}


def bounds(start: str, end: str) -> str:
    return f"FOR VALUES FROM ('{start} 00:00:00') TO ('{end} 00:00:00')"


@plain_only
async def test_days_and_weeks_are_made_for_what_is_written_and_for_nothing_else(
    store: Store, pool: asyncpg.Pool
) -> None:
    times = [
        datetime(2013, 10, 6, 21, 34, 16, tzinfo=UTC),
        datetime(2024, 2, 29, 12, tzinfo=UTC),
        datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 4, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 1, 5, tzinfo=UTC),
    ]

    await store.write([make_trade(id_, at) for id_, at in enumerate(times)])

    assert await partitions(pool, "trades") == {
        "trades_20131006": bounds("2013-10-06", "2013-10-07"),
        "trades_20240229": bounds("2024-02-29", "2024-03-01"),
        "trades_20251231": bounds("2025-12-31", "2026-01-01"),
        "trades_20260101": bounds("2026-01-01", "2026-01-02"),
        "trades_20260104": bounds("2026-01-04", "2026-01-05"),
        "trades_20260105": bounds("2026-01-05", "2026-01-06"),
    }
    assert await partitions(pool, "candles") == {
        "candles_20130930": bounds("2013-09-30", "2013-10-07"),
        "candles_20240226": bounds("2024-02-26", "2024-03-04"),
        "candles_20251229": bounds("2025-12-29", "2026-01-05"),
        "candles_20260105": bounds("2026-01-05", "2026-01-12"),
    }
    assert len(await stored_trades(pool)) == len(await stored_candles(pool)) == 6


@plain_only
async def test_the_bounds_do_not_depend_on_the_time_zone_of_the_session(store: Store, pool: asyncpg.Pool) -> None:
    database = await pool.fetchval("SELECT current_database()")
    await pool.execute(f"ALTER DATABASE \"{database}\" SET timezone = 'America/New_York'")
    await pool.expire_connections()

    await store.write([make_trade(1, datetime(2026, 3, 8, 1, tzinfo=UTC))])  # when New York's clocks go forward

    assert await partitions(pool, "trades") == {"trades_20260308": bounds("2026-03-08", "2026-03-09")}


@plain_only
async def test_candles_alone_make_their_partitions_too(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(candles=[make_candle(datetime(2019, 6, 1, tzinfo=UTC))])

    assert list(await partitions(pool, "candles")) == ["candles_20190527"]


@plain_only
async def test_writers_that_need_the_same_new_partition_make_it_once(pool: asyncpg.Pool) -> None:
    days = [datetime(2020, 1, day, tzinfo=UTC) for day in range(1, 11)]

    async with asyncio.timeout(30):
        await asyncio.gather(
            *(Store(pool).write([make_trade(100 * n + i, day) for i, day in enumerate(days)]) for n in range(4))
        )

    assert len(await partitions(pool, "trades")) == 10
    assert len(await stored_trades(pool)) == 40


@plain_only
async def test_partitions_have_the_indexes_of_their_table(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([make_trade(1, datetime(2026, 1, 1, tzinfo=UTC))])

    rows = await pool.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'candles_20251229'")
    columns = {row["indexdef"].split("USING btree ")[1] for row in rows}
    assert columns == {
        '("timestamp", symbol, interval_minutes)',
        '(symbol, interval_minutes, "timestamp")',
        "(symbol, first_trade_id) WHERE (first_trade_id IS NOT NULL)",
    }


@plain_only
async def test_partitions_can_be_made_ahead(pool: asyncpg.Pool) -> None:
    moments = [datetime(2030, 1, 1, tzinfo=UTC) + timedelta(hours=12 * n) for n in range(6)]

    made = await pool.fetchval("SELECT ensure_partitions('trades', $1)", moments)
    again = await pool.fetchval("SELECT ensure_partitions('trades', $1)", moments)

    assert (made, again) == (3, 0)
    assert await pool.fetchval("SELECT ensure_partitions('external_indicators', $1)", moments) == 1


@hypertables_only
async def test_hypertables_make_their_chunks_themselves(store: Store, pool: asyncpg.Pool) -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)

    await store.write([make_trade(1, day), make_trade(2, day + timedelta(days=1))])

    rows = await pool.fetch(
        "SELECT hypertable_name, range_end - range_start AS width FROM timescaledb_information.chunks"
    )
    assert sorted((row["hypertable_name"], row["width"]) for row in rows) == [
        ("candles", timedelta(days=7)),
        ("trades", timedelta(days=1)),
        ("trades", timedelta(days=1)),
    ]
    assert await pool.fetchval("SELECT ensure_partitions('trades', $1)", [day]) == 0


@plain_only
async def test_a_partition_that_was_dropped_behind_our_back_is_made_again(store: Store, pool: asyncpg.Pool) -> None:
    # A store remembers which days have partitions. When retention in another process had dropped one, the next
    # late trade of that day was refused for ever and ended among the dead letters.
    day = datetime(2026, 1, 1, tzinfo=UTC)
    await store.write([make_trade(1, day)])
    await pool.execute("DROP TABLE trades_20260101")

    stored = await store.write([make_trade(2, day)])

    assert stored.new_trades == 1
    assert [trade.id for trade in await stored_trades(pool)] == [2]
