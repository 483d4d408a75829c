"""Following with a choice of ``gaps``."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.errors import CoverageError, InvalidChoice
from kraken_history.reading.following import follow_candles
from kraken_history.records import MINUTE, HistoricalTrade, floor_minute
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_candle, make_trade
from tests.support.followed import QUICK, Following, Watched, opened, take
from tests.support.waiting import until

BTC, ETH = "BTC/USDT", "ETH/USDT"
SECOND = timedelta(seconds=1)


def trades_at(*minutes: int, first_id: int = 1, symbol: str = BTC) -> list[HistoricalTrade]:
    """Trades with consecutive ids, at a price of their own each."""
    return [
        make_trade(id_, NOON + minute * MINUTE, f"{100 + minute}", symbol=symbol)
        for id_, minute in enumerate(minutes, first_id)
    ]


def shape(candles: list) -> list[tuple[str, int, str, bool]]:  # type: ignore[type-arg]
    return [(c.symbol, (c.timestamp - NOON) // MINUTE, str(c.close), c.is_made_up) for c in candles]


async def test_a_candle_whose_trades_never_came_raises_after_those_before_it(database: Watched, store: Store) -> None:
    await store.write([trade for trade in trades_at(*range(10)) if trade.id != 5])

    followed = follow_candles(database, [BTC], 1, NOON, QUICK, "raise")

    assert opened(await take(followed, 3)) == [(BTC, NOON + n * MINUTE) for n in range(3)]
    with pytest.raises(CoverageError) as refusal:
        await take(followed, 1)
    assert [(gap.start, gap.end) for gap in refusal.value.gaps] == [(NOON + 3 * MINUTE, NOON + 6 * MINUTE)]


async def test_following_does_not_pass_over_missing_time_in_silence(database: Watched, store: Store) -> None:
    """Candles of a download end, and trades begin days later."""
    late = NOON + timedelta(days=3)
    await store.write(candles=[make_candle(NOON + n * MINUTE) for n in range(2)], candle_source="csv")
    await store.write([make_trade(n, late + n * MINUTE) for n in range(3)])

    followed = follow_candles(database, [BTC], 1, NOON, QUICK, "raise")

    assert len(await take(followed, 2)) == 2
    with pytest.raises(CoverageError) as refusal:
        await take(followed, 1)
    assert [(gap.start, gap.end) for gap in refusal.value.gaps] == [(NOON + 2 * MINUTE, late)]


async def test_quiet_time_is_followed_without_an_error(database: Watched, store: Store, pool: asyncpg.Pool) -> None:
    """The last candle is closed by silence beside another symbol's trades, which is no proof, and no gap."""
    now = (await pool.fetchval("SELECT now()")).astimezone(UTC)
    first = floor_minute(now) - 30 * MINUTE
    await store.write([make_trade(1, first), make_trade(2, first + 10 * MINUTE)])
    await store.write([make_trade(n, now - (60 - n) * SECOND, symbol=ETH) for n in range(60)])

    candles = await take(follow_candles(database, [BTC], 1, first, QUICK, "raise"), 2)

    assert opened(candles) == [(BTC, first), (BTC, first + 10 * MINUTE)]


async def test_candles_of_others_come_before_the_gap_of_one(database: Watched, store: Store) -> None:
    await store.write([trade for trade in trades_at(*range(10)) if trade.id != 5])
    await store.write(trades_at(*range(10), symbol=ETH))

    followed = follow_candles(database, [ETH, BTC], 1, NOON, QUICK, "raise")

    assert shape(await take(followed, 6))[4:] == [(ETH, 2, "102", False), (BTC, 2, "102", False)]
    with pytest.raises(CoverageError):
        await take(followed, 1)


async def test_each_bucket_that_closed_without_a_candle_gets_one(database: Watched, store: Store) -> None:
    async with Following(follow_candles(database, [ETH, BTC], 1, NOON, QUICK, "pad")) as follower:
        await store.write([*trades_at(0, 4), *trades_at(0, 1, 4, symbol=ETH)])
        await until(lambda: len(follower.seen) == 8)
        await store.write([*trades_at(6, first_id=3), *trades_at(6, first_id=4, symbol=ETH)])
        await until(lambda: len(follower.seen) == 12)

        assert shape(follower.of(BTC)) == [
            (BTC, 0, "100", False),
            (BTC, 1, "100", True),
            (BTC, 2, "100", True),
            (BTC, 3, "100", True),
            (BTC, 4, "104", False),
            (BTC, 5, "104", True),
        ]
        assert [c.is_made_up for c in follower.of(ETH)] == [False, False, True, True, False, True]
        times = [candle.timestamp for candle in follower.seen]
        assert times == sorted(times)


async def test_padding_begins_with_the_close_before_the_start(database: Watched, store: Store) -> None:
    await store.write(trades_at(0, 8, 9))

    candles = await take(follow_candles(database, [BTC], 1, NOON + 5 * MINUTE, QUICK, "pad"), 4)

    assert shape(candles) == [
        (BTC, 5, "100", True),
        (BTC, 6, "100", True),
        (BTC, 7, "100", True),
        (BTC, 8, "108", False),
    ]


async def test_nothing_is_made_up_before_the_first_known_close(database: Watched, store: Store) -> None:
    await store.write(trades_at(3, 5))

    candles = await take(follow_candles(database, [BTC], 1, NOON - timedelta(days=2), QUICK, "pad"), 2)

    assert shape(candles) == [(BTC, 3, "103", False), (BTC, 4, "103", True)]


async def test_a_long_quiet_stretch_is_padded(database: Watched, store: Store) -> None:
    minutes = timedelta(days=10) // MINUTE
    await store.write(trades_at(0, minutes, minutes + 1))

    candles = await take(follow_candles(database, [BTC], 1, NOON, QUICK, "pad"), minutes + 1)

    assert [candle.timestamp for candle in candles] == [NOON + n * MINUTE for n in range(minutes + 1)]
    assert [candle.is_made_up for candle in candles].count(False) == 2


def test_a_word_that_is_no_choice_is_refused_at_once(database_server: object) -> None:
    with pytest.raises(InvalidChoice, match="gaps"):
        follow_candles(Watched("postgresql://nowhere/x", 1, 1), [BTC], 1, datetime(2025, 1, 1, tzinfo=UTC), QUICK, "no")  # type: ignore[arg-type]
