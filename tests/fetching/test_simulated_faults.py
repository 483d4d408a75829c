"""REST with the simulator's faults, and the whole path of a trade: every trade is there, once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
from redis.asyncio import Redis

from consumers.consumer import Consumer
from kraken_history.completeness.holes import find_holes
from kraken_history.errors import HistoryError
from kraken_history.fetching.backfill import BackfillRunner
from kraken_history.fetching.backfill_targets import list_backfills, request_backfill
from kraken_history.fetching.healing import heal
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.rest import LOCKOUT_S
from kraken_history.storing.store import Store
from kraken_history.stream.publisher import Publisher
from producers.feed import Feed
from simulator import Simulator
from tests.support.kraken import CountingLimiter, NoLimit, assert_equals_truth
from tests.support.streams import STREAMS, is_settled
from tests.support.waiting import until

BTC, ETH = "BTC/USDT", "ETH/USDT"
PAIRS = {symbol: PairMap().find(symbol) for symbol in (BTC, ETH)}
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

PASSING = {
    "throttle:form=eapi": (True, 0, 0),
    "throttle:form=egeneral": (True, 0, 0),
    "throttle:form=eservice,s=20": (True, 17, 20),
    "throttle:form=http429,s=7": (True, 7, 7),
    "throttle:form=http520": (False, 0, 0),
    "throttle:form=lockout": (True, LOCKOUT_S, LOCKOUT_S),
    "error": (False, 0, 0),
    "cut_body:form=http": (False, 0, 0),
    "cut_body:form=json": (False, 0, 0),
    "empty_body": (False, 0, 0),
    "timeout:s=0.01,count=2": (False, 0, 0),  # aiohttp repeats a call once by itself
}
"""Fault → whether the limiter hears of too many calls, and the least and greatest pause that it hears of."""


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    async with Simulator(symbols=[BTC, ETH], emitting=False, history=5_000, rest_burst=1_000_000) as kraken:
        yield kraken


@pytest.mark.parametrize("fault", PASSING)
async def test_the_client_asks_again_and_has_the_page_and_the_limiter_hears_of_it(
    kraken: Simulator, fault: str
) -> None:
    limiter = CountingLimiter()
    async with KrakenRest(kraken.rest_url, limiter, attempts=3) as rest:
        kraken.inject(fault)
        page = await rest.fetch_trades_page(PAIRS[BTC])

    too_often, least_s, most_s = PASSING[fault]
    refusal = limiter.refusals[0]
    assert len(page.trades) == 1000
    assert refusal.too_often is too_often
    assert least_s <= refusal.pause_s <= most_s


@POSTGRESQL
@pytest.mark.parametrize("seed", range(3))
async def test_a_backfill_through_all_faults_of_rest_has_every_trade_once(pool: asyncpg.Pool, seed: int) -> None:
    faults = "throttle:p=0.1;error:p=0.1;cut_body:p=0.1;empty_body:p=0.1;omit_rows:p=0.1;stuck_page:p=0.1"
    async with (
        Simulator(
            symbols=[BTC], emitting=False, history=9_500, rest_burst=1_000_000, faults=faults, fault_seed=seed
        ) as kraken,
        KrakenRest(kraken.rest_url, NoLimit(), attempts=10) as rest,
    ):
        await request_backfill(pool, BTC)
        runner = BackfillRunner(pool, Store(pool), rest, second_look_s=0.01)
        (backfill,) = await list_backfills(pool, BTC)
        while backfill.state == "running":
            await runner.run(PAIRS[BTC])
            (backfill,) = await list_backfills(pool, BTC)
        struck = kraken.director.log.count
        kraken.end_faults()
        await heal_all(pool, rest)

        assert (backfill.state, backfill.reason) == ("done", "")
        assert struck >= 3
        await assert_equals_truth(pool, kraken)


async def heal_all(pool: asyncpg.Pool, rest: KrakenRest) -> None:
    """What the worker does, without its pauses: heal each hole, and try again after an error."""
    while holes := await find_holes(pool):
        for symbol, missing in holes.items():
            for hole in missing:
                with suppress(HistoryError):
                    await heal(pool, Store(pool), rest, PAIRS[symbol], hole, second_look_s=0.01)


ON_THE_WAY = [
    {"fault": fault, "p": p}
    for fault, p in {
        "drop": 0.05, "repeat": 0.1, "reorder": 0.1, "truncate": 0.05, "corrupt": 0.05, "split": 0.2, "merge": 0.1,
        "omit": 0.02, "throttle": 0.1, "error": 0.1, "cut_body": 0.1, "empty_body": 0.1, "stuck_page": 0.1,
        "omit_rows": 0.1, "handshake": 0.2, "refuse": 0.1,
    }.items()
]  # fmt: skip
"""Faults of everything between the exchange and the database."""


@POSTGRESQL
@pytest.mark.parametrize("seed", range(3))
async def test_through_faults_of_frames_sockets_and_answers_every_trade_is_stored_once(
    pool: asyncpg.Pool, redis_url: str, seed: int
) -> None:
    async with (
        Simulator(symbols=[BTC, ETH], emitting=False, rest_burst=1_000_000, fault_seed=seed) as kraken,
        Redis.from_url(redis_url) as redis,
        Publisher(redis, publish_after_s=0.001) as publisher,
        KrakenRest(kraken.rest_url, NoLimit(), attempts=10) as rest,
        asyncio.TaskGroup() as tasks,
    ):
        stop = asyncio.Event()
        feed = Feed(publisher, url=kraken.ws_url, symbols=[BTC, ETH], ack_timeout_s=0.5, longest_ask_again_s=0.1)
        consumer = Consumer(redis, Store(pool), name="a", streams=STREAMS)
        feeding = tasks.create_task(feed.run())
        tasks.create_task(consumer.run(stop))
        await until(lambda: feed.connected)
        kraken.emit(60)
        await until(lambda: stored(pool, 60))  # nothing older than the oldest stored trade can be known to be missing
        kraken.inject(ON_THE_WAY)
        for step in range(60):
            if step % 20 == 19:
                kraken.inject("reset" if step == 19 else "cut")
            kraken.emit(12)
            await asyncio.sleep(0.01)
            await heal_some(pool, rest)
        struck = {line.fault for line in kraken.director.log.after(0)}
        kraken.end_faults()
        await until(lambda: feed.connected and not feed.refused)
        kraken.emit(60)  # a newer trade of each symbol tells what is missing before it
        await until(lambda: feed.last_ids == {s: kraken.exchange.tapes[s].last_id for s in (BTC, ETH)})
        await until(lambda: publisher.waiting_trades == 0)
        await until(lambda: is_settled(redis))
        await heal_all(pool, rest)
        await assert_equals_truth(pool, kraken)
        feeding.cancel()
        stop.set()

    assert {"reset", "cut"} <= struck
    assert len(struck) >= 8


async def stored(pool: asyncpg.Pool, count: int) -> bool:
    return bool(await pool.fetchval("SELECT count(*) = $1 FROM trades", count))


async def heal_some(pool: asyncpg.Pool, rest: KrakenRest) -> None:
    """One attempt at one hole, while the faults of REST go on."""
    for symbol, missing in (await find_holes(pool)).items():
        with suppress(HistoryError):
            await heal(pool, Store(pool), rest, PAIRS[symbol], next(iter(missing)), second_look_s=0.01)
