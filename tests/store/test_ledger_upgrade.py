"""A ledger of before, whose ids were in two columns, becomes rows with the same ids, and the times of the holes."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.hole_times import find_hole_spans, locate
from kraken_history.completeness.holes import find_fetchable_holes, find_holes
from kraken_history.database.connections import Connection, create_pool
from kraken_history.database.migrations import migrate, read_migrations
from kraken_history.ledger import IdRanges
from kraken_history.records import MINUTE
from kraken_history.storing.hole_bounds import fill_hole_times
from kraken_history.storing.store import Store
from tests.support.absent import absent_ids
from tests.support.contents import ledger
from tests.support.examples import NOON, make_trade
from tests.support.servers import DatabaseServer

SYMBOL = "BTC/USDT"
DAY = timedelta(days=1)
HELD = IdRanges([(1, 10), (12, 20), (21, 30), (33, 34), (40, 50)])
ABSENT = IdRanges([(20, 21), (31, 32)])
UNREACHABLE = IdRanges([(35, 37)])
FIRST_KEPT = 12
"""Trades with lower ids were dropped by retention; their candles are there."""


def at(id_: int) -> datetime:
    """A trade every eight hours."""
    return NOON + id_ * DAY / 3


async def store_before(connection: Connection, flavour: str) -> None:
    """Write what the version before wrote: trades, candles, and the ledger in one row."""
    held = [id_ for low, high in HELD for id_ in range(low, high)]
    moments = [at(id_) for id_ in held]
    await connection.execute("SELECT ensure_partitions(t, $1) FROM unnest(ARRAY['trades', 'candles']) AS t", moments)
    await connection.execute(
        """
        INSERT INTO trades (id, symbol, timestamp, price, volume, side, order_type, misc)
        SELECT id, $3, moment, 100, 1, 'buy', 'limit', '' FROM unnest($1::bigint[], $2::timestamptz[]) AS t (id, moment)
        """,
        held,
        moments,
        SYMBOL,
    )
    await connection.execute(
        """
        INSERT INTO candles (symbol, timestamp, interval_minutes, open, high, low, close, volume, quote_volume,
                             trade_count, vwap, source, first_trade_id, last_trade_id)
        SELECT symbol, date_trunc('minute', timestamp), 1, price, price, price, price, 1, price, 1, price, 'trades',
               id, id
        FROM trades
        """
    )
    await connection.execute("DELETE FROM trades WHERE id < $1", FIRST_KEPT)
    # Of the trade after the second hole there is only a candle of the exchange, and the trade.
    await connection.execute(
        "UPDATE candles SET source = 'ohlc', first_trade_id = NULL, last_trade_id = NULL WHERE first_trade_id = 33"
    )
    await connection.execute(
        """
        INSERT INTO data_sync_status (symbol, data_type, id_ranges, absent_id_ranges, oldest_timestamp,
                                      newest_timestamp, total_records, last_kraken_since)
        VALUES ($1, 'trades', $2::text::int8multirange, $3::text::int8multirange, $4, $5, 35, 77),
               ($1, 'candles_1m', '{}', '{}', $4, $5, 35, NULL), ('ETH/USDT', 'candles_1m', '{}', '{}', $4, $5, 1, NULL)
        """,
        SYMBOL,
        HELD.as_multirange(),
        ABSENT.as_multirange(),
        at(1),
        at(49),
    )
    await connection.execute(
        "INSERT INTO unreachable_trades (symbol, timestamp, ids) VALUES ($1, $2, $3::text::int8multirange)",
        SYMBOL,
        at(35),
        UNREACHABLE.as_multirange(),
    )
    await connection.execute(
        "INSERT INTO refused_trades (symbol, id, timestamp, reason) VALUES ($1, 20, $2, 'no price')", SYMBOL, at(20)
    )
    await connection.execute(
        "INSERT INTO waiting_trades (symbol, id, timestamp, price, volume, side, order_type)"
        " VALUES ($1, 7000000, $2, 1, 1, 'buy', 'limit')",
        SYMBOL,
        at(49),
    )
    if flavour == "timescaledb":
        for table in ("trades", "candles"):
            await connection.execute("SELECT compress_chunk(c) FROM show_chunks($1::text::regclass) AS c", table)


@pytest.fixture
async def upgraded(database_url: str, database_server: DatabaseServer) -> AsyncIterator[asyncpg.Pool]:
    await migrate(database_url, migrations=[each for each in read_migrations() if each.version < 19])
    pool = await create_pool(database_url, min_size=1, max_size=3)
    async with pool.acquire() as connection:
        await store_before(connection, database_server.flavour)
    await migrate(database_url)
    yield pool
    pool.terminate()


async def spans(pool: asyncpg.Pool, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    async with pool.acquire() as connection:
        return await find_hole_spans(connection, SYMBOL, (start, end))


async def test_the_same_ids_are_held_absent_and_missing(upgraded: asyncpg.Pool) -> None:
    assert (await ledger(upgraded))[SYMBOL] == HELD
    assert IdRanges(await absent_ids(upgraded)) == ABSENT
    assert await find_holes(upgraded) == {SYMBOL: HELD.holes - ABSENT}
    assert await find_fetchable_holes(upgraded) == {SYMBOL: HELD.holes - ABSENT - UNREACHABLE}


async def test_a_hole_may_be_anywhere_until_its_time_is_looked_up(upgraded: asyncpg.Pool) -> None:
    """Reads before that refuse too much, and never too little."""
    whole = (at(1), at(49) + MINUTE)

    assert set(await spans(upgraded, at(5), at(6))) == {whole}
    assert (await locate(upgraded, SYMBOL, (10, 12))).start == at(1)


async def test_the_times_of_the_holes_are_looked_up_once(upgraded: asyncpg.Pool) -> None:
    searched: list[tuple[int, int]] = []

    assert await fill_hole_times(upgraded, on_searched=lambda *counts: searched.append(counts)) == 4

    # An absent id is no hole: nothing is missing between 19 and 21.
    expected = [(at(9), at(12) + MINUTE), (at(29), at(33) + MINUTE), (at(33), at(40) + MINUTE)]
    assert await spans(upgraded, at(1), at(50)) == expected
    assert await spans(upgraded, at(12) + MINUTE, at(29)) == []
    assert await spans(upgraded, at(30), at(31)) == [expected[1]]
    located = await locate(upgraded, SYMBOL, (34, 40))
    assert (located.start, located.end) == (at(33), at(40))
    assert searched
    assert await fill_hole_times(upgraded) == 0


async def test_the_upgraded_ledger_goes_on(upgraded: asyncpg.Pool) -> None:
    stored = await Store(upgraded).write([make_trade(id_, at(id_)) for id_ in (8, 9, 10, 31, 49, 50, 53)])

    assert (stored.new_trades, stored.known_trades) == (4, 3)
    assert stored.holes[SYMBOL] == IdRanges([(11, 12), (30, 31), (32, 33), (34, 35), (37, 40), (51, 53)])
    assert IdRanges(await absent_ids(upgraded)) == IdRanges([(20, 21)])
    assert await fill_hole_times(upgraded) == 5
    assert (at(10), at(12) + MINUTE) in await spans(upgraded, at(1), at(60))
    assert await upgraded.fetchval("SELECT last_kraken_since FROM data_sync_status WHERE data_type = 'trades'") == 77


async def test_where_nothing_shows_the_time_it_is_between_the_oldest_and_the_newest_trade(
    upgraded: asyncpg.Pool,
) -> None:
    await upgraded.execute("DELETE FROM trades")
    await upgraded.execute("DELETE FROM candles WHERE timestamp < $1", at(25))

    await fill_hole_times(upgraded)

    assert await spans(upgraded, at(1), at(2)) == [(at(1), at(40) + MINUTE), (at(1), at(49) + MINUTE)]
    assert (at(29), at(49) + MINUTE) in await spans(upgraded, at(30), at(31))
