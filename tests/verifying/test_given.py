"""Longer candles without minutes are checked as far as they can be, and counted."""

from datetime import timedelta

import asyncpg
import msgspec
import pytest

from kraken_history import HistoricalDataProvider, UnknownSymbol
from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.errors import InvalidNumber, InvalidRange
from kraken_history.records import HistoricalCandle
from kraken_history.storing.longer_candles import store_longer_candles
from tests.support.examples import make_candle
from tests.support.servers import Background
from tests.verifying.histories import DAY, HOUR, MONDAY, OTHER, SYMBOL, store_history, verified

FIRST = MONDAY - 400 * DAY
NOON = "2024-10-06 12:00:00+00"  # of the first day


def given(interval: int, count: int, symbol: str = SYMBOL) -> list[HistoricalCandle]:
    return [
        msgspec.structs.replace(
            make_candle(FIRST + n * timedelta(minutes=interval), symbol=symbol), interval_minutes=interval
        )
        for n in range(count)
    ]


async def store_given(pool: asyncpg.Pool) -> None:
    await store_longer_candles(pool, SYMBOL, 60, given(60, 48), "ohlc")
    await store_longer_candles(pool, SYMBOL, 1440, given(1440, 30), "csv")


async def test_candles_without_minutes_are_counted(pool: asyncpg.Pool) -> None:
    await store_history(pool)
    await store_given(pool)

    everything = await verified(pool)
    part = await verified(pool, [SYMBOL], FIRST, FIRST + 12 * HOUR)

    assert (everything.differences, everything.given) == ([], 78)
    assert (part.differences, part.given) == ([], 13)
    assert (await verified(pool, [OTHER])).given == 0


async def test_a_history_of_such_candles_alone_is_verified(pool: asyncpg.Pool) -> None:
    await store_given(pool)

    outcome = await verified(pool)

    assert (outcome.is_right, outcome.given, outcome.symbols) == (True, 78, [SYMBOL])


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE longer_candles SET high = 98 WHERE timestamp = '{noon}'", {"given_invalid"}),
        ("UPDATE longer_candles SET volume = 'NaN' WHERE timestamp = '{noon}'", {"given_invalid"}),
        ("UPDATE longer_candles SET trade_count = 0 WHERE timestamp = '{noon}'", {"given_invalid"}),
        (
            "UPDATE longer_candles SET timestamp = timestamp + interval '7 minutes' WHERE timestamp = '{noon}'",
            {"given_invalid"},
        ),
        ("UPDATE longer_candles SET high = 'Infinity' WHERE timestamp = '{noon}'", {"given_invalid"}),
        (
            "UPDATE data_sync_status SET time_ranges = time_ranges - tstzmultirange(tstzrange('{noon}', 'infinity'))"
            " WHERE data_type = 'candles_60m'",
            {"given_uncovered"},
        ),
        ("DELETE FROM longer_candles WHERE timestamp = '{noon}'", {"given_total"}),
        ("DELETE FROM longer_candles WHERE interval_minutes = 60", {"given_total"}),
        ("DELETE FROM data_sync_status WHERE data_type = 'candles_60m'", {"given_uncovered", "given_total"}),
        (
            "UPDATE data_sync_status SET newest_timestamp = newest_timestamp + interval '1 hour'"
            " WHERE data_type = 'candles_60m'",
            {"given_total"},
        ),
    ],
)
async def test_damage_is_found(pool: asyncpg.Pool, statement: str, found: set[str]) -> None:
    await store_given(pool)

    changed = await pool.execute(statement.format(noon=NOON))

    assert changed.split()[-1] != "0"
    differences = (await verified(pool)).differences
    assert {each.what for each in differences} == found
    assert {each.symbol for each in differences} == {SYMBOL}
    assert all("1h: " in each.detail for each in differences)


async def test_a_candle_beyond_all_that_the_ledger_knows_is_found(pool: asyncpg.Pool) -> None:
    await store_given(pool)
    await pool.execute(
        "UPDATE longer_candles SET timestamp = timestamp + interval '900 days'"
        " WHERE interval_minutes = 60 AND timestamp = $1",
        FIRST + 12 * HOUR,
    )

    uncovered = [each for each in (await verified(pool)).differences if each.what == "given_uncovered"]

    assert [(each.start, each.end) for each in uncovered] == [
        (FIRST + 900 * DAY + 12 * HOUR, FIRST + 900 * DAY + 13 * HOUR)
    ]


async def test_an_interval_that_is_not_stored_is_found(pool: asyncpg.Pool) -> None:
    await store_given(pool)
    await pool.execute("UPDATE longer_candles SET interval_minutes = 45 WHERE timestamp = $1", FIRST + 9 * HOUR)

    [found] = [each for each in (await verified(pool)).differences if each.what == "given_invalid"]

    assert (found.start, found.end) == (FIRST + 9 * HOUR, FIRST + 9 * HOUR + timedelta(minutes=45))
    assert found.detail == "45m: no candles of this interval are stored"


async def test_a_candle_is_not_compared_with_proven_minutes(pool: asyncpg.Pool) -> None:
    """Reads take the minutes there, and Kraken's own candle may differ, for example after it cancelled a trade."""
    await store_history(pool)
    candle = msgspec.structs.replace(make_candle(MONDAY + 30 * HOUR, symbol=SYMBOL), interval_minutes=60)
    await store_longer_candles(pool, SYMBOL, 60, [candle], "ohlc")

    assert (await verified(pool)).is_right


async def test_the_provider_verifies(pool: asyncpg.Pool, reader_url: str) -> None:
    await store_history(pool)
    await store_given(pool)
    async with HistoricalDataProvider(reader_url) as history:
        right = await history.verify()
        await pool.execute(
            "UPDATE candles SET close = 100.6 WHERE symbol = 'BTC/USDT' AND timestamp = '2025-11-10 10:00Z'"
        )
        wrong = await history.verify(["XBTUSDT"], MONDAY, MONDAY + DAY)
        with pytest.raises(UnknownSymbol):
            await history.verify(["DOGE/USDT"])
        with pytest.raises(InvalidRange):
            await history.verify(None, MONDAY, MONDAY)
        with pytest.raises(InvalidNumber):
            await history.verify([])

    assert (right.is_right, right.given, right.trades) == (True, 78, 2 * 1_296)
    assert {each.what for each in wrong.differences} == {"candle_differs", "longer_differs"}
    assert wrong.symbols == [SYMBOL]


def test_the_blocking_provider_verifies(migrated_database_url: str, background: Background) -> None:
    with BlockingHistoricalDataProvider(migrated_database_url) as history:
        assert history.verify().window is None
