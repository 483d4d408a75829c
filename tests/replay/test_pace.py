"""How fast history goes by, by a clock that stands still unless it is told."""

from datetime import timedelta

import pytest

from kraken_history.reading.database import Database
from kraken_history.reading.replay import Pacer, replay_candles, replay_merged, replay_trades
from kraken_history.storing.store import Store
from tests.replay.history import DAY, HOUR, MINUTE, MONDAY, FakeClock
from tests.support.examples import make_trade

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(("speed", "pauses"), [(1.0, [60.0, 120.0]), (60, [1.0, 2.0]), (0.5, [120.0, 240.0])])
async def test_pauses_are_the_time_between_divided_by_the_speed(speed: float, pauses: list[float]) -> None:
    clock = FakeClock()
    pacer = Pacer(speed, clock)

    for minute in (0, 1, 3):
        await pacer.wait_for(MONDAY + minute * MINUTE)

    assert clock.pauses == pauses


async def test_without_a_speed_nothing_is_held_back() -> None:
    clock = FakeClock()
    pacer = Pacer(0, clock)

    for day in range(3):
        await pacer.wait_for(MONDAY + day * DAY)

    assert clock.pauses == []


async def test_what_a_slow_consumer_takes_is_made_up_for() -> None:
    clock = FakeClock()
    pacer = Pacer(1, clock)

    await pacer.wait_for(MONDAY)
    clock.now += 25
    await pacer.wait_for(MONDAY + 10 * SECOND)
    await pacer.wait_for(MONDAY + 20 * SECOND)
    await pacer.wait_for(MONDAY + 30 * SECOND)

    assert clock.pauses == [5]


async def test_a_pause_that_was_too_long_shortens_the_next() -> None:
    class Sleepy(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            self.now += 0.25

    clock = Sleepy()
    pacer = Pacer(1, clock)

    for second in range(4):
        await pacer.wait_for(MONDAY + second * SECOND)

    assert clock.pauses == [1, 0.75, 0.75]


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_replays_keep_the_pace_from_their_first_record_on(store: Store, migrated_database_url: str) -> None:
    await store.write([make_trade(id_, MONDAY + id_ * id_ * MINUTE) for id_ in range(4)])
    database = Database(migrated_database_url, 1, 1)
    await database.open()
    start, end = MONDAY - DAY, MONDAY + HOUR
    candles, trades, merged = FakeClock(), FakeClock(), FakeClock()

    async for _ in replay_candles(database, "BTC/USDT", 1, start, end, 60, clock=candles):
        pass
    async for _ in replay_trades(database, "BTC/USDT", start, end, 60, clock=trades):
        pass
    async for _ in replay_merged(database, ["BTC/USDT"], [1, 5], start, end, 60, with_trades=True, clock=merged):
        pass
    await database.close()

    assert candles.pauses == [1, 3, 5]
    assert trades.pauses == [1, 3, 5]
    # Trades at 0, 1, 4 and 9 minutes; each minute a minute later; the five minutes at 5 and at 10.
    assert merged.pauses == [1, 1, 2, 1, 4, 1]
