# ruff: noqa: S608 — the statements are put together from constants
"""The demo's verdict is computed: it turns false for every way in which a row can be wrong."""

from decimal import Decimal

import asyncpg
import pytest

from kraken_history.cli.simulated import Simulated
from kraken_history.cli.verdict import CandlesVerdict, SymbolVerdict, Verdict, judge
from kraken_history.records import HistoricalTrade, utc_from_unix_ns
from simulator.server import Simulator
from simulator.truth import trades_page
from tests.cli.samples import execute, store

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
SYMBOLS = ("BTC/USDT", "XRP/BTC")


def sent(kraken: Simulator, symbol: str) -> list[HistoricalTrade]:
    """The trades of a symbol, as the database should hold them."""
    page = trades_page(kraken.exchange.tapes[symbol], None, None)
    return [
        HistoricalTrade(
            row["id"],
            symbol,
            utc_from_unix_ns(row["time_ns"]),
            Decimal(row["price"]),
            Decimal(row["volume"]),
            row["side"],
            row["order_type"],
        )
        for row in page["trades"]
    ]


async def verdict_after(database_url: str, statement: str) -> Verdict:
    """Store everything that a simulator has sent, do something to the database, and compare."""
    async with Simulator(symbols=SYMBOLS, seed=3, emitting=False) as kraken:
        kraken.emit(400)
        await store(database_url, [trade for symbol in SYMBOLS for trade in sent(kraken, symbol)])
        await execute(database_url, statement)
        connection = await asyncpg.connect(database_url)
        async with Simulated(SYMBOLS, port=kraken.port) as simulated:
            truth = await simulated.truth()
            verdict = await judge(connection, truth, {s: await simulated.candles(s) for s in truth})
        await connection.close()
        return verdict


async def test_equal_rows_are_equal(migrated_database_url: str) -> None:
    verdict = await verdict_after(migrated_database_url, "SELECT 1")

    assert verdict.ok
    assert verdict.sentence.startswith("equal: all 4")
    assert sum(symbol.sent for symbol in verdict.symbols.values()) == 400
    assert verdict.candles.checked >= 2


ONE_TRADE = "id = (SELECT max(id) FROM trades WHERE symbol = 'BTC/USDT') AND symbol = 'BTC/USDT'"
TAMPERED = {
    "a price": f"UPDATE trades SET price = price + 0.1 WHERE {ONE_TRADE}",
    "a volume": f"UPDATE trades SET volume = volume + 0.00000001 WHERE {ONE_TRADE}",
    "a side": f"UPDATE trades SET side = CASE side WHEN 'buy' THEN 'sell' ELSE 'buy' END WHERE {ONE_TRADE}",
    "an order type": f"UPDATE trades SET order_type = 'other' WHERE {ONE_TRADE}",
    "a trade that was not sent": f"""
        INSERT INTO trades (id, symbol, timestamp, price, volume, side, order_type, misc)
        SELECT 1, symbol, timestamp, price, volume, side, order_type, misc FROM trades WHERE {ONE_TRADE}""",
}


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=TAMPERED.keys())
async def test_a_trade_that_differs_is_found(statement: str, migrated_database_url: str) -> None:
    verdict = await verdict_after(migrated_database_url, statement)

    assert not verdict.ok
    assert [verdict.symbols[symbol].is_equal for symbol in SYMBOLS] == [False, True]
    assert "trades differ for BTC/USDT;" in verdict.sentence


async def test_a_missing_trade_is_counted(migrated_database_url: str) -> None:
    verdict = await verdict_after(migrated_database_url, f"DELETE FROM trades WHERE {ONE_TRADE}")

    assert not verdict.ok
    assert verdict.symbols["BTC/USDT"].missing == 1


async def test_a_trade_that_is_stored_twice_is_counted(migrated_database_url: str) -> None:
    twin = f"""
        INSERT INTO trades (id, symbol, timestamp, price, volume, side, order_type, misc)
        SELECT id, symbol, timestamp + interval '1 us', price, volume, side, order_type, misc
        FROM trades WHERE {ONE_TRADE}
        """

    verdict = await verdict_after(migrated_database_url, twin)

    assert not verdict.ok
    assert verdict.symbols["BTC/USDT"].duplicates == 1


@pytest.mark.parametrize(
    "change",
    [
        *(
            f"UPDATE candles SET {column} = {column} + 1"
            for column in ("open", "high", "low", "close", "volume", "quote_volume", "vwap", "trade_count")
        ),
        "UPDATE candles SET timestamp = timestamp + interval '1 minute'",
        "DELETE FROM candles",
    ],
)
async def test_a_candle_that_differs_is_counted(change: str, migrated_database_url: str) -> None:
    statement = f"{change} WHERE symbol = 'XRP/BTC' AND timestamp = (SELECT max(timestamp) FROM candles)"

    verdict = await verdict_after(migrated_database_url, statement)

    assert not verdict.ok
    assert verdict.candles.mismatched in (1, 2)
    assert all(symbol.is_equal for symbol in verdict.symbols.values())


def test_nothing_sent_proves_nothing(database_server: object) -> None:
    verdict = Verdict({"BTC/USDT": SymbolVerdict(0, 0, 0, 0, True)}, CandlesVerdict(0, 0))

    assert not verdict.ok
