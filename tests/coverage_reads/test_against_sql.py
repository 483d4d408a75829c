"""Days of random history: coverage is what SQL finds in the candles, with and without kept maps, and by buckets."""

import random
from datetime import datetime, timedelta

import asyncpg
import pytest

from kraken_history.errors import InvalidNumber
from kraken_history.intervals import bucket_start
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.kinds import KINDS
from kraken_history.records import MINUTE
from kraken_history.storing.map_building import build_missing_maps, remove_wrong_maps
from kraken_history.storing.store import Store
from tests.coverage_reads.in_sql import covered_parts
from tests.support.examples import NOON, make_candle, make_trade

SYMBOL = "BTC/USDT"
DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
FIRST = bucket_start(NOON, DAY)
DAYS = 6


def moment(chance: random.Random) -> datetime:
    """Anywhere in the six days, half of the times on a full minute."""
    at = FIRST + chance.random() * DAYS * DAY
    return bucket_start(at, MINUTE) if chance.random() < 0.5 else at


def stretches(chance: random.Random, most: int) -> list[asyncpg.Range[datetime]]:
    pairs = [sorted((moment(chance), moment(chance))) for _ in range(chance.randrange(most + 1))]
    return [asyncpg.Range(low, min(high, low + 30 * HOUR)) for low, high in pairs if low < high]


async def store_random(pool: asyncpg.Pool, chance: random.Random) -> None:
    store = Store(pool)
    times = sorted(moment(chance) for _ in range(200))
    lost = set(chance.sample(range(200), 3))
    await store.write([make_trade(n, at) for n, at in enumerate(times, 1) if n not in lost])
    for source in ("ohlc", "csv"):
        begins = bucket_start(moment(chance), MINUTE)
        minutes = {begins + n * MINUTE for n in range(chance.choice((10, 2000)))}
        minutes |= {bucket_start(moment(chance), MINUTE) for _ in range(60)}
        await store.write(
            candles=[make_candle(at, trade_count=chance.randint(1, 3)) for at in minutes], candle_source=source
        )
    for data_type in ("trades", "candles_1m"):
        for each in stretches(chance, 4):
            await pool.execute(
                "UPDATE data_sync_status SET time_ranges = time_ranges + tstzmultirange($3::tstzrange)"
                " WHERE symbol = $1 AND data_type = $2",
                SYMBOL,
                data_type,
                each,
            )
    for each in stretches(chance, 1):
        await pool.execute("INSERT INTO dropped_ranges VALUES ('candles', tstzmultirange($1::tstzrange))", each)


@pytest.mark.parametrize("seed", range(4))
async def test_random_days_are_covered_as_sql_finds(
    pool: asyncpg.Pool, history: HistoricalDataProvider, seed: int
) -> None:
    chance = random.Random(seed)
    await store_random(pool, chance)
    windows = [sorted((moment(chance), moment(chance))) for _ in range(4)]
    windows += [[FIRST - DAY, FIRST + 9 * DAY], [FIRST + DAY, FIRST + 3 * DAY]]

    for maps in ("none", "some", "all"):
        if maps != "none":
            await build_missing_maps(pool, now=FIRST + 20 * DAY)
        if maps == "some":
            await remove_wrong_maps(pool, SYMBOL, [FIRST + n * DAY for n in (1, 2, 4)])
        for start, end in windows:
            async with pool.acquire() as connection:
                expected = await covered_parts(connection, SYMBOL, (start, end))
            coverage = await history.get_coverage(SYMBOL, start, end)
            found = [(each.start, each.end, each.kind) for each in coverage.spans]

            assert [each for each in found if each[2] != "missing"] == expected, (maps, start, end)
            assert sum((high - low for low, high, _ in found), timedelta()) == end - start


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("resolution", [MINUTE * 7, HOUR, 36 * HOUR, DAY, 7 * DAY])
async def test_buckets_add_up_to_the_spans(
    pool: asyncpg.Pool, history: HistoricalDataProvider, seed: int, resolution: timedelta
) -> None:
    chance = random.Random(100 + seed)
    await store_random(pool, chance)
    await build_missing_maps(pool, now=FIRST + 20 * DAY)
    start, end = FIRST - 13 * HOUR + 5 * SECOND, FIRST + 5 * DAY + timedelta(microseconds=3_700_001)

    spans = (await history.get_coverage(SYMBOL, start, end)).spans
    found = await history.get_coverage(SYMBOL, start, end, resolution=resolution)

    bounds = [start, *(each.end for each in found.buckets)]
    assert [each.start for each in found.buckets] == bounds[:-1]
    assert bounds[-1] == end
    assert all(bucket_start(at, resolution) == at for at in bounds[1:-1])
    for bucket in found.buckets:
        expected = dict.fromkeys(KINDS, timedelta())
        for span in spans:
            expected[span.kind] += max(min(span.end, bucket.end) - max(span.start, bucket.start), timedelta())
        assert {kind: getattr(bucket, kind) for kind in KINDS} == expected
    assert {kind: found.duration(kind) for kind in KINDS} == {
        kind: sum((each.duration for each in spans if each.kind == kind), timedelta()) for kind in KINDS
    }


@pytest.mark.parametrize("resolution", [timedelta(), SECOND, -DAY, 366 * DAY, 90 * SECOND, 60])
async def test_a_resolution_that_is_not_valid_is_refused(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider, resolution: timedelta
) -> None:
    await store.write([make_trade(1)])

    with pytest.raises(InvalidNumber, match="resolution: expected a timedelta of whole minutes"):
        await history.get_coverage(SYMBOL, FIRST, FIRST + DAY, resolution=resolution)
