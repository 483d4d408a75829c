"""Healing against the simulator: what is missing is fetched, and nothing else is asked for."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.worker import Worker
from redis.asyncio import Redis

import jobs.heal
from consumers.consumer import Consumer
from jobs.context import WorkerContext
from jobs.heal import heal, sweep
from kraken_history.completeness.holes import find_holes
from kraken_history.errors import MisleadingPage
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.resolver import Resolver
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.records import HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from simulator import Simulator
from tests.support.database import ledger, stored_candles, stored_ids, stored_trades
from tests.support.kraken import NoLimit, all_trades
from tests.support.streams import STREAMS, is_settled, publish
from tests.support.waiting import until

BTC, ETH = PairMap().find("BTC/USDT"), PairMap().find("ETH/USDT")


def ids(trades: Sequence[HistoricalTrade]) -> list[int]:
    return [trade.id for trade in trades]


def hole_of(missing: Sequence[HistoricalTrade]) -> IdRange:
    return missing[0].id, missing[-1].id + 1


async def run(context: WorkerContext, symbol: str, hole: IdRange, since: int | None = None) -> int:
    return await heal({"context": context}, symbol, *hole, since)


async def queued(arq: ArqRedis) -> list[Any]:
    return [(job.function, tuple(job.args)) for job in await arq.queued_jobs()]


class TestTheJob:
    @pytest.mark.parametrize("missing", [slice(1, 2), slice(5, 9), slice(300, 700), slice(1, -1)])
    async def test_exactly_the_missing_ids_are_new_and_the_candles_are_whole(
        self, context: WorkerContext, pool: asyncpg.Pool, missing: slice
    ) -> None:
        trades = await all_trades(context.rest, BTC)
        lost = trades[missing]
        await context.store.write([trade for trade in trades if trade not in lost])
        healed = await run(context, "BTC/USDT", hole_of(lost))

        assert healed == len(lost)
        assert await stored_ids(pool) == ids(trades)
        assert await stored_trades(pool) == list(trades)
        assert await stored_candles(pool) == build_candles(trades)
        assert await find_holes(pool) == {}

    async def test_a_hole_that_has_closed_by_itself_costs_no_call(
        self, context: WorkerContext, pool: asyncpg.Pool, kraken: Simulator
    ) -> None:
        trades = await all_trades(context.rest, BTC)
        await context.store.write(trades)
        await kraken.stop()

        assert await run(context, "BTC/USDT", (trades[3].id, trades[9].id)) == 0

    async def test_a_hole_is_healed_on_beside_another_of_the_same_symbol(
        self, context: WorkerContext, pool: asyncpg.Pool
    ) -> None:
        trades = await all_trades(context.rest, BTC)
        early, late = trades[10:20], trades[-20:-10]
        await context.store.write([trade for trade in trades if trade not in (*early, *late)])
        assert len(trades) > 1010  # so that no page holds both
        await run(context, "BTC/USDT", hole_of(late))

        assert await find_holes(pool) == {"BTC/USDT": IdRanges([hole_of(early)])}

    async def test_a_long_hole_is_healed_in_several_jobs_each_asking_for_the_next(
        self, context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis, worker: Worker
    ) -> None:
        async with (
            Simulator(symbols=["BTC/USDT"], emitting=False, history=22_500, rest_burst=1_000_000) as kraken,
            KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
        ):
            context.rest = rest
            tape = kraken.exchange.tapes["BTC/USDT"]
            assert tape.first_id is not None
            assert tape.last_id is not None
            first = (await rest.fetch_trades_page(BTC)).trades[0]
            last = (await rest.fetch_trades_page(BTC, tape.last_time_ns - 1)).trades[-1]
            await context.store.write([first, last])
            hole = (tape.first_id + 1, tape.last_id)
            assert await context.jobs.heal("BTC/USDT", hole)
            await worker.async_run()

        assert worker.jobs_complete == 2
        assert await ledger(pool) == {"BTC/USDT": IdRanges([(tape.first_id, tape.last_id + 1)])}
        assert await queued(arq) == []

    async def test_while_kraken_is_busy_the_job_is_to_be_tried_again(self, context: WorkerContext) -> None:
        """It once asked for a new job of its own id, which the queue refuses while it runs, and was lost."""
        trades = await all_trades(context.rest, BTC)
        await context.store.write([trades[0], trades[5]])
        async with (
            Simulator(emitting=False, rest_burst=1, rest_rate=0) as kraken,
            KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
        ):
            await rest.fetch_trades_page(BTC)
            context.rest = rest
            with pytest.raises(Retry) as retry:
                await run(context, "BTC/USDT", (trades[1].id, trades[5].id))

        assert retry.value.defer_score == jobs.heal._RETRY_AFTER_S * 1000

    async def test_a_kraken_that_does_not_answer_is_tried_again_too(
        self, context: WorkerContext, kraken: Simulator
    ) -> None:
        trades = await all_trades(context.rest, BTC)
        await context.store.write([trades[0], trades[5]])
        await kraken.stop()

        with pytest.raises(Retry):
            await run(context, "BTC/USDT", (trades[1].id, trades[5].id))

    async def test_the_worker_heals_when_a_busy_kraken_has_recovered(
        self, context: WorkerContext, pool: asyncpg.Pool, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs.heal, "_RETRY_AFTER_S", 0.3)
        trades = await all_trades(context.rest, BTC)
        await context.store.write([trade for trade in trades if trade not in trades[5:9]])
        async with (
            Simulator(emitting=False, history=3_000, history_hours=2, rest_burst=1, rest_rate=5) as kraken,
            KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
        ):
            await rest.fetch_trades_page(BTC)
            context.rest = rest
            await context.jobs.heal("BTC/USDT", hole_of(trades[5:9]))
            await worker.async_run()

        assert worker.jobs_retried >= 1
        assert await find_holes(pool) == {}

    @pytest.mark.parametrize("symbol", ["NOT/LISTED", "XBT/USDT/X", ""])
    async def test_an_unknown_symbol_does_not_stop_the_worker(self, context: WorkerContext, symbol: str) -> None:
        assert await run(context, symbol, (1, 5)) == 0

    async def test_what_leads_nowhere_does_not_stop_the_worker(
        self, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def nowhere(*_: object, **__: object) -> None:
            raise MisleadingPage("BTC/USDT", 0, "its cursor does not advance")

        monkeypatch.setattr(jobs.heal, "heal_hole", nowhere)

        assert await run(context, "BTC/USDT", (1, 5)) == 0

    async def test_a_pair_that_is_not_one_of_the_five_is_looked_up(
        self, context: WorkerContext, pool: asyncpg.Pool
    ) -> None:
        async with (
            Simulator(symbols=["DOGE/USD"], emitting=False, history=500) as kraken,
            KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
        ):
            context.rest = rest
            context.pairs = Resolver(rest.fetch_asset_pairs)
            trades = await all_trades(rest, await context.pairs.find("DOGE/USD"))
            await context.store.write([trades[0], trades[-1]])
            await run(context, "DOGE/USD", (trades[0].id, trades[-1].id + 1))

        assert await stored_ids(pool) == ids(trades)


class TestTheSweep:
    async def test_every_hole_is_asked_for_once(
        self, context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis, worker: Worker
    ) -> None:
        btc, eth = await all_trades(context.rest, BTC), await all_trades(context.rest, ETH)
        lost = [*btc[3:5], *btc[100:150], *eth[7:8]]
        await context.store.write([trade for trade in (*btc, *eth) if trade not in lost])
        asked = await sweep({"context": context})

        assert asked == 2  # of BTC/USDT's two, which are less than a page apart, together
        assert sorted(args for _, args in await queued(arq)) == sorted(
            [
                ("BTC/USDT", btc[3].id, btc[149].id + 1, None),
                ("ETH/USDT", *hole_of(eth[7:8]), None),
            ]
        )
        assert await sweep({"context": context}) == 0
        await worker.async_run()
        assert await stored_trades(pool) == [*btc, *eth]
        assert await sweep({"context": context}) == 0

    async def test_very_many_holes_close_together_are_one_job_and_one_pass(
        self, context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis, worker: Worker
    ) -> None:
        trades = (await all_trades(context.rest, BTC))[:901]
        kept = trades[::2]
        await context.store.write(kept)
        asked = await sweep({"context": context})

        assert asked == 1
        assert [args for _, args in await queued(arq)] == [("BTC/USDT", trades[1].id, kept[-1].id, None)]
        await worker.async_run()
        assert worker.jobs_complete == 1
        assert await find_holes(pool) == {}

    async def test_an_empty_database_has_no_holes(self, context: WorkerContext) -> None:
        assert await sweep({"context": context}) == 0


class TestFromConsumerToWorker:
    async def test_a_hole_that_the_consumer_meets_is_healed_by_the_worker(
        self, context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis, redis_url: str, worker: Worker
    ) -> None:
        trades = await all_trades(context.rest, BTC)
        async with Redis.from_url(redis_url) as redis, asyncio.TaskGroup() as group:
            consumer = Consumer(
                redis,
                Store(pool),
                name="a",
                streams=STREAMS,
                batch_max_age_s=0.01,
                on_holes=context.jobs.heal_new_holes,
            )
            task = group.create_task(consumer.run(asyncio.Event()))
            await publish(redis, trades[:100], trades[140:200])
            await until(lambda: is_settled(redis))
            await until(lambda: queued(arq))
            assert await queued(arq) == [("heal", ("BTC/USDT", *hole_of(trades[100:140]), None))]
            await worker.async_run()
            task.cancel()

        assert await find_holes(pool) == {}
        assert ids(trades[:200]) == (await stored_ids(pool))[:200]
