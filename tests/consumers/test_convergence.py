"""Whatever happens to the entries on their way, the same rows result."""

import asyncio
from dataclasses import dataclass

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from consumers.consumer import Consumer
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.store import Store
from tests.support.database import ledger, stored_candles, stored_trades
from tests.support.records import candle, trade, trades
from tests.support.streams import STREAMS, is_settled, publish
from tests.support.waiting import until

SENT = [*trades(range(1, 41), "BTC/USDT"), *trades(range(5, 25), "ETH/USDT")]
FULLER = candle(trades(range(60, 66)))
# Running candles, as the exchange sends them: poorer than the trades, as full, and of a minute without trades.
CANDLES = [
    candle(trades(range(1, 3))),
    candle(trades(range(1, 8))),
    candle(trades(range(60, 62))),
    FULLER,
]
ROWS = sorted(SENT, key=lambda t: (t.symbol, t.id))
EXPECTED_CANDLES = sorted([*build_candles(SENT), FULLER], key=lambda c: (c.symbol, c.timestamp))
EXPECTED_LEDGER = {"BTC/USDT": IdRanges([(1, 41)]), "ETH/USDT": IdRanges([(5, 25)])}


Entry = list[HistoricalTrade] | list[HistoricalCandle]


@dataclass(frozen=True)
class Delivery:
    """How the trades and candles reach the database."""

    entries: list[Entry]
    consumers: int
    batch_max_rows: int


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    order = draw(st.permutations(SENT))
    repeated = draw(st.lists(st.sampled_from(SENT), max_size=30))
    records = [*order, *repeated]
    cuts = sorted(draw(st.sets(st.integers(1, len(records) - 1), max_size=25)))
    parts = [records[a:b] for a, b in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    candles = [[c] for c in [*CANDLES, *CANDLES]]
    entries: list[Entry] = [*parts, *candles, *parts[:3]]
    return Delivery(draw(st.permutations(entries)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 7, 40, 1000])))


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(delivery=deliveries())
async def test_any_order_repetition_and_splitting_over_any_number_of_consumers_ends_in_the_same_rows(
    pool: asyncpg.Pool, redis: Redis, delivery: Delivery
) -> None:
    await redis.flushall()
    await pool.execute(
        "TRUNCATE trades, candles, data_sync_status, sync_keys, unheld_ids, absent_ids, contested_minutes,"
        " corrected_minutes"
    )
    await publish(redis, *delivery.entries)
    async with asyncio.TaskGroup() as group:
        consumers = [
            Consumer(
                redis,
                Store(pool),
                name=f"consumer-{n}",
                streams=STREAMS,
                batch_max_rows=delivery.batch_max_rows,
                batch_max_age_s=0.005,
            )
            for n in range(delivery.consumers)
        ]
        tasks = [group.create_task(consumer.run(asyncio.Event())) for consumer in consumers]
        await until(lambda: is_settled(redis))
        for task in tasks:
            task.cancel()

    assert await stored_trades(pool) == ROWS
    assert await stored_candles(pool) == EXPECTED_CANDLES
    assert await ledger(pool) == EXPECTED_LEDGER


def test_the_fullest_candle_of_each_minute_is_what_the_trades_say() -> None:
    """Else the property above would hold the wrong rows for right."""
    assert trade(1) in SENT
    assert {c.trade_count for c in CANDLES[2:]} == {2, 6}
