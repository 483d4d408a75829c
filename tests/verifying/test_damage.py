"""Every kind of damage is found, and nothing but it, and repaired."""

import asyncpg
import pytest

from kraken_history.cli.verify import repair_and_verify
from tests.verifying.histories import OTHER, SYMBOL, store_history, verified

# Of the history: minute 10:00 of the first day has the trades 183 (first), 184 and 185; 10:10 has 186 to 188.
TEN = "2025-11-10 10:00:00+00"

MATERIALIZED = """
    DO $$
    DECLARE
        relation text := '{view}_rows';
    BEGIN
        IF to_regclass(relation) IS NULL THEN
            SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) INTO relation
            FROM timescaledb_information.continuous_aggregates WHERE view_name = '{view}';
        END IF;
        EXECUTE format('{statement}', relation);
    END $$
"""

DAMAGES: dict[str, tuple[str, set[str]]] = {
    "a trade is deleted": (
        "DELETE FROM trades WHERE id = 184 AND symbol = 'BTC/USDT'",
        {"trade_missing", "candle_differs"},
    ),
    "all trades of a minute are deleted": (
        "DELETE FROM trades WHERE id BETWEEN 183 AND 185 AND symbol = 'BTC/USDT'",
        {"trade_missing", "candle_without_trades"},
    ),
    "the newest trade is deleted": (
        "DELETE FROM trades WHERE id = 1298 AND symbol = 'BTC/USDT'",
        {"trade_missing", "candle_differs", "trade_extent"},
    ),
    "a trade is inserted by hand": (
        "INSERT INTO trades VALUES (5000, 'BTC/USDT', ':ten', 99, 1, 'buy', 'limit', '')",
        {"trade_not_in_ledger", "candle_differs"},
    ),
    "a trade is inserted into a quiet minute": (
        "INSERT INTO trades VALUES (5000, 'BTC/USDT', ':ten'::timestamptz + interval '3 minutes',"
        " 99, 1, 'buy', 'limit', '')",
        {"trade_not_in_ledger", "candle_missing"},
    ),
    "a trade is there twice": (
        "INSERT INTO trades SELECT id, symbol, timestamp + interval '1 microsecond', price + 1, volume, side,"
        " order_type, misc, stored_at + interval '1 second' FROM trades WHERE id = 184 AND symbol = 'BTC/USDT'",
        {"trade_repeated"},
    ),
    "a trade is there twice, on two days": (
        "INSERT INTO trades SELECT id, symbol, timestamp + interval '1 day 3 minutes', price + 1, volume, side,"
        " order_type, misc, stored_at + interval '1 second' FROM trades WHERE id = 184 AND symbol = 'BTC/USDT'",
        {"trade_repeated", "candle_missing"},
    ),
    "the price of a trade is changed": (
        "UPDATE trades SET price = 100.51 WHERE id = 184 AND symbol = 'BTC/USDT'",
        {"candle_differs"},
    ),
    "a candle's volume has a zero too many": (
        "UPDATE candles SET volume = volume + 0.00 WHERE symbol = 'BTC/USDT' AND timestamp = ':ten'",
        {"candle_differs", "longer_differs"},
    ),
    "a candle's close is changed": (
        "UPDATE candles SET close = 100.6 WHERE symbol = 'BTC/USDT' AND timestamp = ':ten'",
        {"candle_differs", "longer_differs"},
    ),
    "a candle has too many trades": (
        "UPDATE candles SET trade_count = 9 WHERE symbol = 'BTC/USDT' AND timestamp = ':ten'",
        {"candle_differs", "longer_differs"},
    ),
    "a candle is deleted": (
        "DELETE FROM candles WHERE symbol = 'BTC/USDT' AND timestamp = ':ten'",
        {"candle_missing", "candle_total", "longer_differs", "longer_without_minutes"},
    ),
    "a candle of trades was never traded": (
        "INSERT INTO candles SELECT symbol, timestamp + interval '1 minute', interval_minutes, open, high, low, close,"
        " volume, quote_volume, trade_count, vwap, source FROM candles WHERE timestamp = ':ten'"
        " AND symbol = 'BTC/USDT'",
        {"candle_without_trades", "candle_total", "longer_differs"},
    ),
    "a candle of the exchange stands before its trades": (
        "UPDATE candles SET source = 'ohlc', first_trade_id = NULL, last_trade_id = NULL"
        " WHERE timestamp = ':ten' AND symbol = 'BTC/USDT'",
        {"candle_outranked", "longer_differs"},
    ),
    "a stored hour has the wrong source": (
        MATERIALIZED.format(
            view="candles_1h",
            statement="UPDATE %s SET source = ''csv'' WHERE timestamp = '':ten'' AND symbol = ''BTC/USDT''",
        ),
        {"longer_differs"},
    ),
    "a stored hour is changed": (
        MATERIALIZED.format(
            view="candles_1h", statement="UPDATE %s SET close = 1 WHERE timestamp = '':ten'' AND symbol = ''BTC/USDT''"
        ),
        {"longer_differs"},
    ),
    "a stored hour has more trades than its minutes": (
        MATERIALIZED.format(
            view="candles_1h",
            statement="UPDATE %s SET trade_count = 99 WHERE timestamp = '':ten'' AND symbol = ''BTC/USDT''",
        ),
        {"longer_differs"},
    ),
    "a stored hour is deleted": (
        MATERIALIZED.format(
            view="candles_1h", statement="DELETE FROM %s WHERE timestamp = '':ten'' AND symbol = ''BTC/USDT''"
        ),
        {"longer_missing"},
    ),
    "five stored minutes are made up": (
        MATERIALIZED.format(
            view="candles_5m",
            statement="INSERT INTO %s (symbol, timestamp, interval_minutes, open, high, low, close, volume,"
            " quote_volume, trade_count, vwap) SELECT symbol, timestamp + interval ''5 minutes'', interval_minutes,"
            " open, high, low, close, volume, quote_volume, trade_count, vwap FROM candles_5m"
            " WHERE timestamp = '':ten'' AND symbol = ''BTC/USDT''",
        ),
        {"longer_without_minutes"},
    ),
    "the ledger counts wrong": (
        "UPDATE data_sync_status SET total_records = total_records + 1 WHERE symbol = 'BTC/USDT'",
        {"trade_total", "candle_total"},
    ),
    "the ledger begins too late": (
        "UPDATE data_sync_status SET oldest_timestamp = oldest_timestamp + interval '1 hour 7 seconds'"
        " WHERE symbol = 'BTC/USDT'",
        {"trade_extent", "candle_extent"},
    ),
    "the ledger ends too late": (
        "UPDATE data_sync_status SET newest_timestamp = newest_timestamp + interval '1 hour' WHERE symbol = 'BTC/USDT'",
        {"trade_extent", "candle_extent"},
    ),
    "the ledger is lost": (
        "DELETE FROM data_sync_status WHERE symbol = 'BTC/USDT'",
        {"trade_not_in_ledger", "candle_extent"},
    ),
}


async def damage(pool: asyncpg.Pool, statement: str) -> None:
    await pool.execute(statement.replace(":ten", TEN))


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_found_and_repaired(pool: asyncpg.Pool, migrated_database_url: str, name: str) -> None:
    statement, kinds = DAMAGES[name]
    await store_history(pool)
    await damage(pool, statement)

    differences = (await verified(pool)).differences
    assert {each.what for each in differences} == kinds
    assert {each.symbol for each in differences} == {SYMBOL}
    assert (await verified(pool, [OTHER])).is_right

    outcome = await repair_and_verify(migrated_database_url, [], None, None)
    assert outcome.verification.differences == []
