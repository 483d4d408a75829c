"""History at once: the exchange's own candles of each interval, before its trades are fetched."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from arq import Retry
from arq.connections import ArqRedis

from jobs.backfill import backfill
from jobs.context import WorkerContext
from jobs.longer_history import fetch_ohlc, fetch_ohlc_of_all
from kraken_history.fetching.longer_history import FETCHED, fetch_longer_history, runs_of
from kraken_history.fetching.queue import JobQueue
from kraken_history.intervals import bucket_start
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.resolver import Resolver
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle, TimeRange
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.longer.test_reading import longer
from tests.support.command import Run, clean_environment, command  # noqa: F401 — fixtures
from tests.support.kraken import NoLimit, all_trades
from tests.support.queue import connect_queue
from tests.support.servers import Background

BTC = "BTC/USDT"
PAIR = PairMap().find(BTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    """Four days of trades, by the real clock; it makes no more."""
    async with Simulator(
        symbols=[BTC], emitting=False, history=3_000, history_hours=96, rest_burst=1_000_000
    ) as kraken:
        yield kraken


@pytest.fixture
async def rest(kraken: Simulator) -> AsyncIterator[KrakenRest]:
    async with KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest:
        yield rest


def values(candle: HistoricalCandle) -> tuple[object, ...]:
    """All that Kraken's candle and one of trades share: its vwap is cut to the decimals of the price."""
    c = candle
    return c.timestamp, c.open, c.high, c.low, c.close, c.volume, c.trade_count


async def read_all(history: HistoricalDataProvider, interval: int) -> list[HistoricalCandle]:
    now = datetime.now(UTC)
    return await history.get_candles(BTC, interval, now - 10 * DAY, now, gaps="ignore")


async def test_charts_work_before_a_trade_is_fetched_and_trades_take_over(
    pool: asyncpg.Pool, rest: KrakenRest, history: HistoricalDataProvider
) -> None:
    new = await fetch_longer_history(pool, Store(pool), rest, PAIR)

    assert set(new) == set(FETCHED)
    assert await pool.fetchval("SELECT count(*) FROM trades") == 0
    before = {interval: await read_all(history, interval) for interval in (5, 60, 180, 240, 720, 1440)}
    assert {candle.source for candles in before.values() for candle in candles} == {"ohlc"}
    assert len(before[1440]) >= 3
    coverage = await history.get_coverage(BTC, bucket_start(datetime.now(UTC) - 2 * DAY, DAY), datetime.now(UTC), 60)
    assert coverage.spans[0].kind == "exchange"

    await Store(pool).write(await all_trades(rest, PAIR))
    for interval, candles in before.items():
        after = await read_all(history, interval)
        # Only the first bucket is not proven: trades before the oldest may be missing in it.
        assert {candle.source for candle in after[1:]} == {"trades"}, interval
        shown = {values(candle) for candle in after}
        assert all(values(candle) in shown for candle in candles[1:]), interval


async def test_the_running_candle_is_not_stored(pool: asyncpg.Pool, rest: KrakenRest) -> None:
    now = datetime.now(UTC)
    await fetch_longer_history(pool, Store(pool), rest, PAIR)

    newest = await pool.fetch("SELECT interval_minutes, max(timestamp) AS at FROM longer_candles GROUP BY 1")
    assert all(
        row["at"] + timedelta(minutes=row["interval_minutes"]) <= now + 2 * timedelta(minutes=1) for row in newest
    )


async def test_a_second_fetch_changes_nothing(pool: asyncpg.Pool, rest: KrakenRest) -> None:
    await fetch_longer_history(pool, Store(pool), rest, PAIR)
    before = {tuple(row) for row in await pool.fetch("SELECT * FROM longer_candles")}

    await fetch_longer_history(pool, Store(pool), rest, PAIR)

    assert before <= {tuple(row) for row in await pool.fetch("SELECT * FROM longer_candles")}


def test_only_time_with_a_row_is_covered() -> None:
    """Kraken has a row for each quiet bucket. One that is not there is unknown."""
    start = datetime(2025, 11, 10, tzinfo=UTC)
    rows = [longer(start, 60), longer(start + HOUR, 60, trade_count=0), longer(start + 3 * HOUR, 60)]

    assert runs_of(rows, 60) == [TimeRange(start, start + 2 * HOUR), TimeRange(start + 3 * HOUR, start + 4 * HOUR)]


@pytest.fixture
async def arq(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with await connect_queue(redis_url) as arq:
        yield arq


@pytest.fixture
def ctx(pool: asyncpg.Pool, arq: ArqRedis, rest: KrakenRest) -> dict[str, Any]:
    settings = Settings(symbols=(BTC,), history_days=1)
    jobs = JobQueue(arq, heal_delay_s=0.01)
    return {"context": WorkerContext(settings, pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), jobs)}


async def test_the_worker_asks_for_each_new_symbol_once_and_again_after_a_day(
    ctx: dict[str, Any], pool: asyncpg.Pool, arq: ArqRedis
) -> None:
    assert await fetch_ohlc_of_all(ctx) == 1
    assert await fetch_ohlc_of_all(ctx) == 0  # it is in the queue
    assert await arq.zrange(arq.default_queue_name, 0, -1) == [b"fetch-ohlc:BTC/USDT"]
    await arq.flushdb()

    assert await fetch_ohlc(ctx, BTC) > 100
    assert await fetch_ohlc_of_all(ctx) == 0
    await pool.execute("UPDATE data_sync_status SET last_sync_at = last_sync_at - interval '25 hours'")
    assert await fetch_ohlc_of_all(ctx) == 1


async def test_a_backfill_of_a_new_symbol_asks_for_it_too(ctx: dict[str, Any], arq: ArqRedis) -> None:
    assert await backfill(ctx, BTC) == 0  # no backfill was requested, so no page is fetched

    assert b"fetch-ohlc:BTC/USDT" in await arq.zrange(arq.default_queue_name, 0, -1)


async def test_an_outage_postpones_the_job_and_a_refusal_ends_it(ctx: dict[str, Any], kraken: Simulator) -> None:
    assert await fetch_ohlc(ctx, "NO/SUCH") == 0
    await kraken.stop()

    with pytest.raises(Retry):
        await fetch_ohlc(ctx, BTC)


@pytest.fixture
def served(background: Background) -> Iterator[Simulator]:
    kraken = Simulator(symbols=[BTC], emitting=False, history=2_600, history_hours=96, rest_burst=1_000_000)
    background.run(kraken.start())
    yield kraken
    background.run(kraken.stop())


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_the_command_says_what_is_new(
    command: Run,  # noqa: F811
    migrated_database_url: str,
    redis_url: str,
    served: Simulator,
) -> None:
    servers = {
        "DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": served.rest_url,
        "REST_CALL_SPACING_S": "0.01", "REST_TOTAL_SPACING_S": "0.01",
    }  # fmt: skip
    outcome = command("fetch-ohlc", "btcusdt", "NO/SUCH", **servers)

    assert outcome.code == 1
    assert outcome.out.startswith("BTC/USDT: new candles: ")
    assert " of 1d, " in outcome.out
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("NO/SUCH: ")
