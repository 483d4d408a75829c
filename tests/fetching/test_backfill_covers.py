"""A finished backfill records the time that it proved, also where nothing was traded."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from kraken_history.completeness.covered_time import find_uncovered
from kraken_history.csv_import import CsvImporter, Imported, found_files
from kraken_history.fetching.backfill import BackfillRunner, backfill_symbol
from kraken_history.fetching.backfill_targets import list_backfills, request_backfill
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import TimeRange
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.support.kraken import BEGIN_S, BTC, CountedSimulator, NoLimit, full_page, page, row, scripted_kraken

BEGIN = datetime.fromtimestamp(BEGIN_S, UTC)
DAY = timedelta(days=1)


async def run_backfill(pool: asyncpg.Pool, *answers: str, start: datetime | None = None, end: datetime) -> None:
    await request_backfill(pool, BTC.symbol, start=start, end=end)
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)
    assert [each.state for each in await list_backfills(pool)] == ["done"]


async def uncovered(pool: asyncpg.Pool, start: datetime, end: datetime) -> list[TimeRange]:
    (found,) = await find_uncovered(pool, [BTC.symbol], start, end)
    return list(found.stretches)


async def no_pairs() -> list[Pair]:
    return []


async def test_the_seam_between_a_file_and_the_first_trade_behind_it_is_covered(
    migrated_database_url: str, pool: asyncpg.Pool, cases: Path
) -> None:
    """The file ends at 05:01, and the first trade of the backfill is at 07:19: the time between stayed missing."""
    with found_files([cases / "XRPXBT_1.csv"]) as (files, _):
        (imported,) = [each async for each in CsvImporter(pool, no_pairs, symbol="XRP/BTC").import_files(files)]
    day = (await pool.fetchval("SELECT max(timestamp) FROM candles")).replace(hour=0, minute=0)
    first_trade = day + timedelta(hours=7, minutes=19, seconds=3)
    seconds = (first_trade - BEGIN).total_seconds()
    pair = PairMap().find("XRP/BTC")
    assert isinstance(imported, Imported)

    await request_backfill(pool, pair.symbol, start=day + timedelta(hours=4), end=day + timedelta(hours=8))
    answer = page(*(row(1 + n, seconds + 60 * n) for n in range(60)))
    async with scripted_kraken(answer) as kraken, KrakenRest(kraken.url, NoLimit()) as rest:
        await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(pair)

    async with HistoricalDataProvider(migrated_database_url) as provider:
        coverage = await provider.get_coverage(pair.symbol, day + timedelta(hours=4), day + timedelta(hours=8))
    assert coverage.is_complete
    assert coverage.duration("quiet") > timedelta(hours=2)


async def test_a_backfill_from_the_beginning_covers_the_time_before_the_first_trade(pool: asyncpg.Pool) -> None:
    await run_backfill(pool, full_page(1, 0), page(row(1000, 999), row(1001, 1000)), end=BEGIN + DAY)

    assert await uncovered(pool, datetime(2012, 1, 1, tzinfo=UTC), BEGIN + DAY) == []


async def test_a_target_in_which_nothing_was_traded_is_covered_up_to_the_next_trade(pool: asyncpg.Pool) -> None:
    start, end = BEGIN - 9 * DAY, BEGIN - 8 * DAY
    await run_backfill(pool, full_page(1, 0), start=start, end=end)

    assert await pool.fetchval("SELECT count(*) FROM trades") == 0
    assert await uncovered(pool, start - DAY, BEGIN + DAY) == [
        TimeRange(start - DAY, start),
        TimeRange(BEGIN, BEGIN + DAY),
    ]


async def test_a_pair_that_was_never_traded_is_covered_up_to_the_present(pool: asyncpg.Pool) -> None:
    await run_backfill(pool, page(), start=BEGIN, end=BEGIN + DAY)

    assert await uncovered(pool, BEGIN, BEGIN + DAY) == []


async def test_an_answer_that_proves_nothing_covers_nothing(pool: asyncpg.Pool) -> None:
    await request_backfill(pool, BTC.symbol, start=BEGIN - DAY, end=BEGIN + DAY)
    answers = page(row(1, 0), row(2, 1)), page(row(1, 0))
    async with scripted_kraken(*answers) as kraken, KrakenRest(kraken.url, NoLimit(), attempts=1) as rest:
        await BackfillRunner(pool, Store(pool), rest, second_look_s=0.01).run(BTC)

    second = BEGIN + timedelta(seconds=1)
    assert await uncovered(pool, BEGIN - DAY, BEGIN + DAY) == [
        TimeRange(BEGIN - DAY, BEGIN),
        TimeRange(second, BEGIN + DAY),
    ]


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_the_covered_ranges_of_a_symbol_stay_few(pool: asyncpg.Pool) -> None:
    """Each page proves a range of its own; those between the oldest and the newest trade are not kept."""
    async with (
        CountedSimulator(("BTC/USDT",), history=20_000) as kraken,
        KrakenRest(kraken.rest_url, NoLimit()) as rest,
    ):
        await backfill_symbol(pool, "BTC/USDT", rest=rest)
        assert len(kraken.calls) > 20

    ranges = await pool.fetchval("SELECT time_ranges FROM data_sync_status WHERE data_type = 'trades'")
    oldest = await pool.fetchval("SELECT min(timestamp) FROM trades")
    newest = await pool.fetchval("SELECT max(timestamp) FROM trades")
    assert 1 <= len(ranges) <= 2
    assert all(each.upper <= oldest or each.lower >= newest for each in ranges)
