"""Kraken decides about trades whose ids leap absurdly far."""

from datetime import timedelta

import asyncpg
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker
from msgspec.structs import replace

import kraken_history.storing.waiting
from jobs.context import WorkerContext
from jobs.leaps import request_confirmations
from jobs.tails import TailWatch
from kraken_history.completeness.holes import find_holes
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.resolver import Resolver
from kraken_history.leaps import AT_ONCE
from kraken_history.runtime.liveness import HEALTH_PREFIX
from kraken_history.runtime.signs import encode_sign
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetter, DeadLetters
from simulator import Simulator
from tests.support.database import stored_candles, stored_ids
from tests.support.kraken import NoLimit, all_trades
from tests.support.signs import PRODUCER, sign

SYMBOL = "BTC/USDT"
BTC = PairMap().find(SYMBOL)

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASKED_AFTER", "ASKED_AGAIN_AFTER"):
        monkeypatch.setattr(kraken_history.storing.waiting, name, timedelta())


async def run_jobs(context: WorkerContext, worker: Worker) -> int:
    """Request the confirmations, and do what is requested; return the number of requests."""
    asked = await request_confirmations(context)
    worker.ctx["redis"] = worker.pool
    await worker.main()
    return asked


async def letters_of(arq: ArqRedis) -> list[DeadLetter]:
    return [letter async for letter in DeadLetters(arq, max_letters=10).list()]


async def waiting(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM waiting_trades"))


async def test_a_trade_that_kraken_does_not_know_becomes_a_dead_letter_at_the_second_look(
    context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis, worker: Worker
) -> None:
    trades = await all_trades(context.rest, BTC)
    poison = replace(trades[500], id=2**62)
    await Store(pool, doubts_leaps=True).write([*trades[:500], poison])
    assert await run_jobs(context, worker) == 1
    assert (await waiting(pool), await letters_of(arq)) == (1, [])

    assert await run_jobs(context, worker) == 1
    (letter,) = await letters_of(arq)
    assert (letter.origin, letter.origin_id) == (wire.trades_stream(0), str(2**62))
    assert letter.reason.startswith(f"BTC/USDT {2**62}: its id leaps absurdly far")
    assert wire.decode_trades(letter.fields) == [poison]
    assert await waiting(pool) == 0
    assert await run_jobs(context, worker) == 0
    assert await find_holes(pool) == {}
    assert await stored_ids(pool) == [trade.id for trade in trades][: len(await stored_ids(pool))]


async def test_a_leap_that_kraken_confirms_is_stored_and_what_is_missing_before_it_is_fetched(
    pool: asyncpg.Pool, context: WorkerContext, worker: Worker
) -> None:
    async with (
        Simulator(symbols=[SYMBOL], emitting=False, history=3_000, history_hours=2, rest_burst=1_000_000) as kraken,
        KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest,
    ):
        context.rest, context.pairs = rest, Resolver(rest.fetch_asset_pairs)
        trades = await all_trades(rest, BTC)
        # The bound is lowered instead of fetching 100,000 trades.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kraken_history.leaps.AT_ONCE", 500)
            patch.setattr("kraken_history.leaps.PER_SECOND", 0)
            doubting = Store(pool, doubts_leaps=True)
            await doubting.write(trades[:100])
            written = await doubting.write(trades[2_000:2_003])
            assert (written.new_trades, len(written.waiting)) == (0, 3)
            assert await run_jobs(context, worker) == 1

    assert await waiting(pool) == 0
    assert await find_holes(pool) == {}
    assert await stored_ids(pool) == [trade.id for trade in trades]
    assert await stored_candles(pool) == build_candles(trades)


async def test_the_tail_of_a_producer_that_leaps_is_not_fetched_at_once(
    context: WorkerContext, pool: asyncpg.Pool, arq: ArqRedis
) -> None:
    trades = await all_trades(context.rest, BTC)
    await context.store.write(trades)
    await arq.set(f"{HEALTH_PREFIX}producer:a", encode_sign(sign(PRODUCER, last_ids={SYMBOL: 2**62})))
    watch = TailWatch(context, arq)
    await watch.look()
    await watch.look()

    (job,) = await arq.queued_jobs()
    assert tuple(job.args) == (SYMBOL, trades[-1].id + 1, trades[-1].id + AT_ONCE + 1, None)
