"""What was stored before times of storing were kept counts as known ever since, compressed or not."""

from datetime import timedelta

from kraken_history.database.connections import Connection, create_pool
from kraken_history.database.migrations import migrate, read_migrations
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.store import Store
from tests.as_of.test_known_earlier import END, MINUTE, SYMBOL, instant
from tests.support.examples import NOON, make_trade
from tests.support.servers import DatabaseServer

HALF_A_MINUTE = timedelta(seconds=30)

TRADES_OF_BEFORE = """
    INSERT INTO trades SELECT n, $1, $2::timestamptz + (n - 1) * interval '1 minute', 100 + n, 1, 'buy', 'limit', ''
    FROM generate_series(1, 2) AS n
"""
CANDLES_OF_BEFORE = """
    INSERT INTO candles
    SELECT symbol, date_trunc('minute', timestamp), 1, price, price, price, price, 1, price, 1, price, 'trades', id, id
    FROM trades
"""
LEDGER_OF_BEFORE = """
    INSERT INTO data_sync_status (symbol, data_type, id_ranges, oldest_timestamp, newest_timestamp)
    VALUES ($1, 'trades', '{[1,3)}', $2::timestamptz - interval '1 minute', $2),
           ($1, 'candles_1m', '{}', $2::timestamptz - interval '1 minute', $2)
"""


async def store_before(connection: Connection, flavour: str) -> None:
    moment = NOON + MINUTE
    await connection.execute("SELECT ensure_partitions(t, $1) FROM unnest(ARRAY['trades', 'candles']) AS t", [moment])
    await connection.execute(TRADES_OF_BEFORE, SYMBOL, NOON)
    await connection.execute(CANDLES_OF_BEFORE)
    await connection.execute(LEDGER_OF_BEFORE, SYMBOL, moment)
    if flavour == "timescaledb":
        for table in ("trades", "candles"):
            await connection.execute("SELECT compress_chunk(c) FROM show_chunks($1::text::regclass) AS c", table)


async def test_rows_of_before_were_always_known(database_url: str, database_server: DatabaseServer) -> None:
    migrations = read_migrations()
    await migrate(database_url, migrations=[each for each in migrations if each.version < 9])
    pool = await create_pool(database_url, min_size=1, max_size=2)
    async with pool.acquire() as connection:
        await store_before(connection, database_server.flavour)
    await migrate(database_url)

    async with HistoricalDataProvider(database_url, 1, 1) as provider:
        known = await provider.get_candles(SYMBOL, 1, NOON, END, gaps="ignore")
        assert [str(candle.close) for candle in known] == ["101", "102"]
        assert await provider.get_candles(SYMBOL, 1, NOON, END, as_of=NOON) == known

        before = await instant(pool)
        await Store(pool).write([make_trade(3, NOON + MINUTE + HALF_A_MINUTE, "300")])

        assert await provider.get_candles(SYMBOL, 1, NOON, END, as_of=before) == known
        assert [str(c.close) for c in await provider.get_candles(SYMBOL, 1, NOON, END, gaps="ignore")] == ["101", "300"]
    pool.terminate()
