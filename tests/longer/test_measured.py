"""What ``kraken-history coverage`` measures at an interval is what coverage at that interval says."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.longer_cover import find_longer_since
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.kinds import KINDS
from kraken_history.reading.measured_coverage import measure_coverage
from kraken_history.records import TimeRange
from kraken_history.storing.longer_candles import store_longer_candles
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.longer.test_reading import BTC, DAY, HOUR, MONDAY, given, longer
from tests.support.command import Run
from tests.support.examples import make_trade
from tests.support.servers import Background


@pytest.mark.parametrize("interval", [1, 30, 60, 240, 1440, 10080])
async def test_the_measure_at_an_interval_is_the_coverage_at_it(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider, interval: int
) -> None:
    """Days of a fortnight, hours of some of its time, trades within one day, and a dropped week before."""
    await given(pool, 1440, MONDAY - 3 * DAY, 14)
    await given(pool, 60, MONDAY + 2 * DAY + 5 * HOUR, 40)
    trades = [make_trade(n + 1, MONDAY + 3 * DAY + n * timedelta(minutes=7)) for n in range(100)]
    await store.write(trades)
    await drop_old(pool, {"candles": MONDAY}, now=MONDAY + 30 * DAY)
    start, end = MONDAY - 5 * DAY + 3 * HOUR, MONDAY + 20 * DAY + timedelta(minutes=13)

    coverage = await history.get_coverage(BTC, start, end, interval)
    async with pool.acquire() as connection:
        measured = await measure_coverage(connection, BTC, start, end, interval)

    assert measured.totals == {kind: coverage.duration(kind).total_seconds() for kind in KINDS}
    assert sum((each.duration for each in measured.missing), timedelta()) == coverage.duration("missing")
    assert {day.date() for day in measured.days} == {(start + n * DAY).date() for n in range(26)}


async def test_the_beginning_is_that_of_the_candles_that_serve(pool: asyncpg.Pool) -> None:
    await given(pool, 1440, MONDAY, 14)
    await given(pool, 60, MONDAY + DAY, 5)

    async with pool.acquire() as connection:
        found = [await find_longer_since(connection, BTC, interval) for interval in (30, 60, 120, 1440, 2880)]

    assert found == [None, MONDAY + DAY, MONDAY + DAY, MONDAY, MONDAY]


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_the_command_shows_the_days_that_have_no_minutes(
    migrated_database_url: str, background: Background, command: Run
) -> None:
    async def put() -> None:
        async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
            days = [longer(MONDAY + n * DAY, 1440) for n in range(7)]
            await store_longer_candles(pool, BTC, 1440, days, "ohlc")

    background.run(put())
    until = (MONDAY + 8 * DAY).isoformat()

    at_days = command("coverage", "--interval", "1d", "--to", until, "--json", DATABASE_URL=migrated_database_url)
    at_hours = command("coverage", "--interval", "1h", "--from", "2025-11-10", "--to", until, "--json")

    days, hours = (json.loads(each.out)["symbols"][BTC] for each in (at_days, at_hours))
    assert (days["from"], days["exchange_s"], days["missing_s"]) == ("2025-11-10T00:00:00Z", 7 * 86_400, 86_400)
    assert [TimeRange(_at(gap["start"]), _at(gap["end"])) for gap in days["gaps"]] == [
        TimeRange(MONDAY + 7 * DAY, MONDAY + 8 * DAY)
    ]
    assert hours["missing_s"] == 8 * 86_400


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
