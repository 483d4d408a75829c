"""What the worker tells Prometheus of backfills and gaps."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from arq import Retry
from arq.connections import ArqRedis
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs

from consumers.consumer import Consumer
from jobs.backfill import backfill
from jobs.context import WorkerContext
from jobs.figures import keep_figures, note_backfills, note_missing, note_uncovered
from jobs.gaps import fill_gap
from jobs.heal import heal
from kraken_history.clock import utc_now
from kraken_history.fetching.backfill_targets import cancel_backfills, list_backfills, request_backfill
from kraken_history.kraken.pairs import PairMap
from kraken_history.runtime import telemetry
from kraken_history.runtime.liveness import HEALTH_PREFIX
from kraken_history.stream import wire
from simulator import Simulator
from tests.support.kraken import all_trades
from tests.support.records import trades as trades_of
from tests.support.waiting import until

SYMBOL = "BTC/USDT"
pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def figure(name: str, **labels: str) -> float:
    """What a scrape would show now; 0 for what was never counted."""
    return REGISTRY.get_sample_value(name, {"symbol": SYMBOL, **labels}) or 0.0


def counted(work: str) -> tuple[float, float]:
    """Pages and trades."""
    return figure("kraken_fetched_pages_total", work=work), figure("kraken_fetched_trades_total", work=work)


def since(before: tuple[float, float], work: str) -> tuple[float, float]:
    """How much more there is now."""
    pages, trades = counted(work)
    return pages - before[0], trades - before[1]


async def test_pages_and_trades_are_counted_by_what_they_were_fetched_for(
    context: WorkerContext, arq: ArqRedis, kraken: Simulator
) -> None:
    ctx = {"context": context, "redis": arq}
    begin = {work: counted(work) for work in ("backfill", "heal", "gap")}
    trades = await all_trades(context.rest, PairMap().find(SYMBOL))
    await context.store.write([*trades[:100], *trades[110:200]])

    await heal(ctx, SYMBOL, trades[100].id, trades[110].id, None)
    healed = await context.pool.fetchval("SELECT count(*) FROM trades") - 190
    assert since(begin["heal"], "heal") == (1, healed)
    await request_backfill(context.pool, SYMBOL)
    await backfill(ctx, SYMBOL)
    (done,) = await list_backfills(context.pool)
    assert since(begin["backfill"], "backfill") == (done.pages, len(trades) - 190 - healed)
    await context.pool.execute("UPDATE data_sync_status SET newest_timestamp = newest_timestamp - interval '1 hour'")
    await fill_gap(ctx, SYMBOL, 2, 0)
    assert since(begin["gap"], "gap")[0] > 0


async def test_failures_are_counted_by_what_becomes_of_them(
    context: WorkerContext, arq: ArqRedis, kraken: Simulator
) -> None:
    def failures(work: str, outcome: str) -> float:
        return figure("kraken_fetch_failures_total", work=work, outcome=outcome)

    ctx = {"context": context, "redis": arq}
    kinds = [(work, outcome) for work in ("backfill", "heal", "gap") for outcome in ("later", "failed")]
    begin = {kind: failures(*kind) for kind in kinds}
    trades = await all_trades(context.rest, PairMap().find(SYMBOL))
    await context.store.write([trades[0], trades[9]])
    await request_backfill(context.pool, SYMBOL)
    tasks = [(backfill, (SYMBOL,)), (heal, (SYMBOL, trades[1].id, trades[9].id, None)), (fill_gap, (SYMBOL, 2, 0))]

    await kraken.stop()
    for job, arguments in tasks:
        with pytest.raises(Retry):
            await job(ctx, *arguments)  # type: ignore[operator]
    assert {kind: failures(*kind) - begin[kind] for kind in kinds} == {
        kind: float(kind[1] == "later") for kind in kinds
    }


async def test_the_state_of_a_backfill_is_told_and_how_far_it_is(context: WorkerContext) -> None:
    def states() -> dict[str, float]:
        kinds = ("running", "paused", "done", "cancelled", "failed")
        return {state: figure("kraken_backfill_state", state=state) for state in kinds}

    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    await request_backfill(context.pool, SYMBOL, start=start, end=end)
    await note_backfills(context.pool)

    assert [state for state, value in states().items() if value] == ["running"]
    assert figure("kraken_backfill_reached_timestamp_seconds") == start.timestamp()
    assert figure("kraken_backfill_remaining_seconds") == 2 * 86_400
    await cancel_backfills(context.pool, SYMBOL)
    await note_backfills(context.pool)
    assert [state for state, value in states().items() if value] == ["cancelled"]
    await context.pool.execute("UPDATE backfills SET state = 'done'")  # at the tip, before the end
    await note_backfills(context.pool)
    assert figure("kraken_backfill_remaining_seconds") == 0


async def test_a_backfill_that_is_begun_anew_has_not_reached_what_it_had_before(context: WorkerContext) -> None:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    await request_backfill(context.pool, SYMBOL, start=start, end=end)
    await note_backfills(context.pool)
    await request_backfill(context.pool, SYMBOL, end=end)  # from the beginning of the pair, wherever that is

    await note_backfills(context.pool)

    names = ("kraken_backfill_reached_timestamp_seconds", "kraken_backfill_remaining_seconds")
    assert [REGISTRY.get_sample_value(name, {"symbol": SYMBOL}) for name in names] == [None, None]
    assert figure("kraken_backfill_state", state="running") == 1


async def test_the_figures_are_kept_after_whatever_went_wrong(context: WorkerContext, arq: ArqRedis) -> None:
    """The task ended at the first error that no server's absence explains, and nobody heard of it."""
    await request_backfill(context.pool, SYMBOL, start=datetime(2026, 1, 1, tzinfo=UTC))
    telemetry.BACKFILL_STATE.clear()
    await context.pool.execute("ALTER TABLE backfills RENAME TO elsewhere")
    with capture_logs() as logs:
        keeping = asyncio.create_task(keep_figures(context, arq, every_s=0.01))
        async with asyncio.timeout(10):
            while not logs:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await context.pool.execute("ALTER TABLE elsewhere RENAME TO backfills")
            while not figure("kraken_backfill_state", state="running"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)

    assert {(said["event"], said["log_level"]) for said in logs} == {("figures_not_kept", "error")}
    assert 'relation "backfills" does not exist' in logs[0]["error"]


async def test_a_sign_of_life_that_cannot_be_read_is_logged_once(context: WorkerContext, arq: ArqRedis) -> None:
    await arq.set(f"{HEALTH_PREFIX}producer:a", b'{"version":2}')
    with capture_logs() as logs:
        keeping = asyncio.create_task(keep_figures(context, arq, every_s=0.01))
        async with asyncio.timeout(10):
            while not logs:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await arq.set(f"{HEALTH_PREFIX}producer:b", b'{"version":3}')
            while len(logs) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)

    assert [(said["event"], said["service"]) for said in logs] == [
        ("sign_of_life_unreadable", "producer:a"),
        ("sign_of_life_unreadable", "producer:b"),
    ]
    assert "got 2" in logs[0]["reason"]


async def test_missing_ids_are_counted_of_every_symbol_and_go_back_to_zero(context: WorkerContext) -> None:
    """A consumer showed the number that its last write had left, while a worker's sweep said 0."""

    async def missing(symbol: str = SYMBOL) -> float | None:
        await note_missing(context.pool, context.settings.symbols)
        return REGISTRY.get_sample_value("kraken_missing_ids", {"symbol": symbol})

    telemetry.MISSING_IDS.clear()
    assert await missing() == 0
    await context.store.write(trades_of([1, 2, 10]))
    await context.store.write(trades_of([1, 4], "OLD/USD"))
    assert "OLD/USD" not in context.settings.symbols
    assert (await missing(), await missing("OLD/USD")) == (7, 2)
    await context.store.write(trades_of(range(3, 10)))
    await context.store.write(trades_of([2, 3], "OLD/USD"))
    assert (await missing(), await missing("OLD/USD")) == (0, 0)


async def test_a_consumers_writes_leave_the_gauge_to_the_workers(context: WorkerContext, redis_url: str) -> None:
    telemetry.MISSING_IDS.clear()
    stop = asyncio.Event()
    async with Redis.from_url(redis_url) as redis:
        consumer = Consumer(redis, context.store, name="a", streams=[wire.trades_stream(0)], batch_max_age_s=0.01)
        consuming = asyncio.create_task(consumer.run(stop))
        await redis.xadd(wire.trades_stream(0), wire.encode(trades_of([1, 2, 10])))
        await until(lambda: consumer.new_trades == 3)
        stop.set()
        await consuming

    assert REGISTRY.get_sample_value("kraken_missing_ids", {"symbol": SYMBOL}) is None


async def test_the_wanted_time_that_was_not_asked_for_is_told(context: WorkerContext) -> None:
    now = utc_now()
    trades = await all_trades(context.rest, PairMap().find(SYMBOL))
    await context.store.write(trades)
    covered = trades[-1].timestamp - trades[0].timestamp

    async def uncovered(live_ids: dict[str, int], days: int = 1) -> timedelta:
        await note_uncovered(context.pool, {SYMBOL: days}, live_ids=live_ids, now=now)
        return timedelta(seconds=figure("kraken_uncovered_seconds"))

    end = now - trades[-1].timestamp
    shown = end if end >= timedelta(minutes=2) else timedelta()
    second = timedelta(seconds=1)
    assert abs(await uncovered({}) - (timedelta(days=1) - covered - end + shown)) < second
    assert abs(await uncovered({SYMBOL: trades[-1].id}) - (timedelta(days=1) - covered - end)) < second
    assert abs(await uncovered({SYMBOL: trades[-1].id}, days=30) - (timedelta(days=30) - covered - end)) < second
