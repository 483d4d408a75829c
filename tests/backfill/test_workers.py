"""Backfills by real workers, which are killed, against the simulator."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from kraken_history.fetching.backfill_targets import list_backfills
from kraken_history.fetching.longer_history import FETCHED
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.storing.store import Store
from tests.backfill.workers import surroundings
from tests.support.kraken import CountedSimulator, NoLimit, assert_equals_truth
from tests.support.slots import TOTAL, assert_spaced, noted_slots

SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
PAIRS = ("XBTUSDT", "ETHUSDT", "XRPUSDT")
MOST_MEMORY = 200 * 1024**2
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def say(figures: str) -> None:
    """Show what was measured, to whoever runs this with -s or looks at a failure."""
    sys.stdout.write(f"{figures}\n")


def in_mib(memory: int) -> str:
    """Bytes as MiB."""
    return f"{memory / 1024**2:.0f} MiB"


@pytest.mark.slow
@pytest.mark.timeout(180)
@POSTGRESQL
async def test_three_pairs_from_nothing_by_a_worker_that_is_killed_five_times(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    kraken = CountedSimulator(SYMBOLS, history=200_000, history_hours=72)
    async with surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=0.05, rest_total_spacing_s=0.001, backfill_lease_s=1.0,
    ) as around:  # fmt: skip
        await around.ask(*SYMBOLS)
        for _ in range(5):
            await around.workers.start()
            target = await around.pages() + 20

            async def has_advanced(target: int = target) -> bool:
                return await around.pages() >= target

            await around.until(has_advanced, timeout_s=30)
            await around.workers.end(signal.SIGKILL)
        assert not await around.is_done()
        await around.workers.start()
        await around.until(around.is_done, timeout_s=60)

        await assert_equals_truth(pool, kraken)
        assert around.workers.most_memory < MOST_MEMORY
        calls = sum(len(kraken.times_by_pair()[pair]) for pair in PAIRS)
        again = calls - await around.pages()
        say(f"{calls} calls, {again} of them for pages that were lost; memory {in_mib(around.workers.most_memory)}")
        assert again <= 5 * len(SYMBOLS)


@pytest.mark.slow
@pytest.mark.timeout(180)
@POSTGRESQL
async def test_three_pairs_from_nothing_at_the_pace_of_the_limiter(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    spacing_s = 0.16
    kraken = CountedSimulator(SYMBOLS, history=200_000, history_hours=72)
    async with surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=spacing_s, rest_total_spacing_s=0.001,
    ) as around:  # fmt: skip
        await around.ask(*SYMBOLS)
        await around.workers.start()
        await around.until(around.is_done, timeout_s=90)
        memory = around.workers.most_memory
        await around.workers.end(signal.SIGTERM)

        await assert_equals_truth(pool, kraken)
    rates = {}
    by_pair = kraken.times_by_pair("Trades", "OHLC")  # the exchange's own candles come first, at the same pace
    for pair in PAIRS:
        times = by_pair[pair]
        rates[pair] = (len(times) - 1) * spacing_s / (times[-1] - times[0])
        say(f"{pair}: {len(times)} pages, {rates[pair]:.3f} of what the limiter allows")
    say(f"memory {in_mib(memory)}")
    assert memory < MOST_MEMORY
    assert min(rates.values()) >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(120)
@POSTGRESQL
async def test_four_workers_on_one_queue_never_exceed_the_limit_together(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Each call has its slot, slots are far enough apart, and the simulator refuses none.

    It would refuse what comes faster for longer than a burst: calls that a busy machine holds up come together.
    """
    spacing_s, total_spacing_s = 0.1, 0.04
    kraken = CountedSimulator(SYMBOLS, history=60_000, history_hours=24, rest_burst=5, rest_rate=1 / spacing_s)
    async with noted_slots(redis_url) as slots, surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=spacing_s, rest_total_spacing_s=total_spacing_s, backfill_run_s=0.5,
    ) as around:  # fmt: skip
        await around.workers.start(4)
        await around.ask(*SYMBOLS)
        await around.until(around.is_done, timeout_s=60)

        await assert_equals_truth(pool, kraken)
    by_pair = kraken.times_by_pair()
    assert_spaced(slots.pop(TOTAL), total_spacing_s)
    for given in slots.values():
        assert_spaced(given, spacing_s)
    asked = kraken.times_by_pair("Trades", "OHLC")
    for pair in PAIRS:
        # The exchange's own candles are fetched beside the trades; the last call may still be on its way.
        assert len(slots[pair]) - len(asked[pair]) in (0, 1)
        # A worker that starts releases the jobs that are at work, so that of the candles may run once for each.
        assert len(asked[pair]) - len(by_pair[pair]) <= 4 * len(FETCHED)
    calls = sum(len(by_pair[pair]) for pair in PAIRS)
    busiest = max(by_pair.values(), key=len)
    least_s, took_s = (len(busiest) - 1) * spacing_s, busiest[-1] - busiest[0]
    say(f"four workers: {calls} pages, none refused")
    say(f"{len(busiest)} of one pair in {took_s:.1f} s, at least {least_s:.1f} s by its spacing")
    assert calls == sum(backfill.pages for backfill in await list_backfills(pool))  # none was refused


@pytest.mark.timeout(60)
@POSTGRESQL
async def test_redis_may_be_wiped_at_any_moment(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    kraken = CountedSimulator(SYMBOLS[:1], history=20_000, history_hours=12)
    async with surroundings(
        kraken, pool, migrated_database_url, redis_url, tmp_path,
        rest_call_spacing_s=0.05, backfill_lease_s=1.0, backfill_run_s=0.2,
    ) as around:  # fmt: skip
        await around.ask(SYMBOLS[0])
        await around.arq.flushall()  # the job is lost before any worker has seen it
        await around.workers.start()

        async def has_begun() -> bool:
            return await around.pages() > 3

        await around.until(has_begun, timeout_s=20)
        await around.arq.flushall()
        await around.workers.end(signal.SIGTERM)
        await around.workers.start()
        await around.until(around.is_done, timeout_s=30)

        await assert_equals_truth(pool, kraken)


@pytest.mark.timeout(60)
async def test_live_and_backfill_together_leave_no_duplicate_and_no_hole(
    migrated_database_url: str, redis_url: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """The live feed writes the newest trades, some twice, while the backfill comes up to them from the beginning."""
    symbol = SYMBOLS[0]
    kraken = CountedSimulator((symbol,), history=15_000, history_hours=12)
    pair = PairMap().find(symbol)
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(
            surroundings(
                kraken, pool, migrated_database_url, redis_url, tmp_path,
                rest_call_spacing_s=0.03, rest_total_spacing_s=0.001, backfill_run_s=1.0, symbols=symbol,
            )
        )  # fmt: skip
        rest = await stack.enter_async_context(KrakenRest(kraken.rest_url, NoLimit()))
        store = Store(pool)

        stop = asyncio.Event()

        async def live() -> None:
            while not stop.is_set():
                since = kraken.exchange.tapes[symbol].last_time_ns
                kraken.emit(50)
                page = await rest.fetch_trades_page(pair, since)
                await store.write(page.trades[:30])
                await store.write(page.trades[20:])
                await asyncio.sleep(0.05)

        feed = asyncio.create_task(live())
        await around.ask(symbol)
        await around.workers.start()
        await around.until(around.is_done, timeout_s=40)
        stop.set()
        await feed

        async def is_whole() -> bool:
            return bool(await pool.fetchval(
                "SELECT count(*) = (SELECT max(id) - min(id) + 1 FROM trades) FROM trades WHERE symbol = $1", symbol
            ))  # fmt: skip

        await around.until(is_whole, timeout_s=20)
        await assert_equals_truth(pool, kraken)
        say(f"live and backfill: {len(kraken.ids(symbol)):,} trades, {len(kraken.ids(symbol)) - 15_000:,} of them live")
