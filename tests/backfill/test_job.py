"""The job, its turns, and the sweep, on a queue of their own."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from arq import Retry
from arq.connections import ArqRedis

from jobs.backfill import MOST_AT_ONCE, backfill, sweep_backfills
from jobs.context import WorkerContext
from kraken_history.fetching.backfill_targets import list_backfills, request_backfill
from kraken_history.fetching.queue import JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.resolver import Resolver
from kraken_history.settings import Settings
from kraken_history.storing.store import Store
from tests.support.kraken import CountedSimulator, NoLimit, assert_equals_truth, scripted_kraken
from tests.support.queue import connect_queue

SYMBOL = "BTC/USDT"
pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture
async def arq(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with await connect_queue(redis_url) as arq:
        yield arq


@pytest.fixture
async def kraken() -> AsyncIterator[CountedSimulator]:
    async with CountedSimulator((SYMBOL,), history=3_000) as kraken:
        yield kraken


def context_of(pool: asyncpg.Pool, arq: ArqRedis, rest: KrakenRest, **settings: Any) -> dict[str, Any]:
    return {
        "context": WorkerContext(
            Settings(**settings), pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), JobQueue(arq)
        )
    }


async def queued(arq: ArqRedis) -> list[str]:
    return [id_.decode() for id_ in await arq.zrange("kraken:jobs", 0, -1)]


async def test_a_run_of_pages_asks_for_the_next_under_an_id_that_follows_from_it(
    pool: asyncpg.Pool, arq: ArqRedis, kraken: CountedSimulator
) -> None:
    await request_backfill(pool, SYMBOL)
    async with KrakenRest(kraken.rest_url, NoLimit()) as rest:
        ctx = context_of(pool, arq, rest, backfill_run_s=1e-9)
        await backfill(ctx, SYMBOL)
        first = await queued(arq)
        await backfill(ctx, SYMBOL)

        assert [first, await queued(arq)] == [
            [f"fetch-ohlc:{SYMBOL}", f"backfill:{SYMBOL}:1"],
            [f"fetch-ohlc:{SYMBOL}", f"backfill:{SYMBOL}:1", f"backfill:{SYMBOL}:2"],
        ]


async def test_the_last_run_asks_for_no_further_run(
    pool: asyncpg.Pool, arq: ArqRedis, kraken: CountedSimulator
) -> None:
    await request_backfill(pool, SYMBOL)
    async with KrakenRest(kraken.rest_url, NoLimit()) as rest:
        ctx = context_of(pool, arq, rest)

        assert await backfill(ctx, SYMBOL) == 3_000
        assert await backfill(ctx, SYMBOL) == 0
    assert await queued(arq) == [f"fetch-ohlc:{SYMBOL}"]
    await assert_equals_truth(pool, kraken)


async def test_while_kraken_is_busy_the_job_is_tried_later(pool: asyncpg.Pool, arq: ArqRedis) -> None:
    await request_backfill(pool, SYMBOL)
    answer = '{"error":["EService:Busy"]}'
    async with scripted_kraken(answer) as busy, KrakenRest(busy.url, NoLimit(), attempts=1) as rest:
        ctx = context_of(pool, arq, rest)
        with pytest.raises(Retry):
            await backfill(ctx, SYMBOL)

    assert ctx["context"].backfills == set()
    (state,) = await list_backfills(pool)
    assert (state.state, state.lease_until) == ("running", None)


async def test_a_symbol_that_kraken_has_taken_off_fails(
    pool: asyncpg.Pool, arq: ArqRedis, kraken: CountedSimulator
) -> None:
    await request_backfill(pool, "GONE/USD")
    async with KrakenRest(kraken.rest_url, NoLimit()) as rest:
        assert await backfill(context_of(pool, arq, rest), "GONE/USD") == 0

    (state,) = await list_backfills(pool)
    assert state.state == "failed"
    assert "GONE/USD" in state.reason


async def test_slots_are_left_for_healing(pool: asyncpg.Pool, arq: ArqRedis, kraken: CountedSimulator) -> None:
    async with KrakenRest(kraken.rest_url, NoLimit()) as rest:
        ctx = context_of(pool, arq, rest)
        ctx["context"].backfills.update(f"A{n}/USD" for n in range(MOST_AT_ONCE))

        with pytest.raises(Retry):
            await backfill(ctx, SYMBOL)
        assert await backfill(ctx, "A1/USD") == 0  # under way already
    assert kraken.calls == []


async def test_the_sweep_asks_for_what_stands_still_under_a_new_id(
    pool: asyncpg.Pool, arq: ArqRedis, kraken: CountedSimulator
) -> None:
    """A killed worker's job keeps its id for minutes: asking under the same one was refused."""
    asked = await request_backfill(pool, SYMBOL)
    await JobQueue(arq).backfill(SYMBOL, asked.run)
    await pool.execute("UPDATE backfills SET lease_until = now() - interval '1 s'")
    async with KrakenRest(kraken.rest_url, NoLimit()) as rest:
        ctx = context_of(pool, arq, rest)

        assert [await sweep_backfills(ctx), await sweep_backfills(ctx)] == [1, 0]
    assert await queued(arq) == [f"backfill:{SYMBOL}:0", f"backfill:{SYMBOL}:1"]
