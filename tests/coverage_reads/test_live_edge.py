"""Reads that insist on complete history and end at the present: they must neither cry wolf nor hide a dead feed."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.covered_time import cover
from kraken_history.errors import CoverageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.live_edge import LONGEST_SILENCE, LiveEdge, judge, without
from kraken_history.records import MINUTE, HistoricalCandle, HistoricalTrade, TimeRange, floor_minute
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_candle, make_trade

BTC, XRP = "BTC/USDT", "XRP/BTC"
SECOND = timedelta(seconds=1)
NOW = NOON + timedelta(hours=1)


def edge(known_s_ago: float, *, newest_candle: datetime | None = None, newest_of_all_s_ago: float = 1) -> LiveEdge:
    return LiveEdge(NOW, NOW - known_s_ago * SECOND, newest_candle, NOW - newest_of_all_s_ago * SECOND)


def tail(known_s_ago: float) -> list[tuple[datetime, datetime]]:
    return [(NOW - known_s_ago * SECOND, NOW)]


@pytest.mark.parametrize("known_s_ago", [0.001, 1, 60, 299, 300])
def test_the_last_moments_are_unsettled(known_s_ago: float) -> None:
    judged = judge(tail(known_s_ago), edge(known_s_ago, newest_of_all_s_ago=known_s_ago))

    assert (judged.gaps, judged.settled_until) == ([], NOW - known_s_ago * SECOND)


@pytest.mark.parametrize("known_s_ago", [300.1, 3600, 86_400])
def test_a_feed_that_is_down_for_longer_leaves_a_gap(known_s_ago: float) -> None:
    judged = judge(tail(known_s_ago), edge(known_s_ago, newest_of_all_s_ago=known_s_ago))

    assert (judged.gaps, judged.settled_until) == (tail(known_s_ago), None)


@pytest.mark.parametrize("known_s_ago", [46, 300.1, 3600, 86_400])
def test_a_quiet_symbol_beside_busy_ones_is_settled_up_to_the_grace(known_s_ago: float) -> None:
    judged = judge(tail(known_s_ago), edge(known_s_ago))

    assert (judged.gaps, judged.settled_until) == ([], NOW - 46 * SECOND)


def test_silence_is_believed_for_a_day_only() -> None:
    """A symbol that was taken out of SYMBOLS is silent too."""
    known_s_ago = LONGEST_SILENCE.total_seconds() + 60

    assert judge(tail(known_s_ago), edge(known_s_ago)).gaps == tail(known_s_ago)


def test_a_symbol_with_later_candles_is_not_quiet() -> None:
    """Kraken's candles come, and the trades do not."""
    candle = floor_minute(NOW - 60 * SECOND)

    assert judge(tail(600), edge(600, newest_candle=candle)).gaps == tail(600)


def test_the_candle_of_the_last_trade_is_none_of_later_trades() -> None:
    """It opens with the trade, if that was made in the first instant of its minute."""
    assert judge(tail(600), edge(600, newest_candle=NOW - 600 * SECOND)).gaps == []


def test_a_gap_further_back_stays_a_gap_beside_an_unsettled_tail() -> None:
    gap = (NOON, NOON + MINUTE)

    judged = judge([gap, *tail(10)], edge(10))

    assert (judged.gaps, judged.settled_until) == ([gap], NOW - 10 * SECOND)


def test_a_hole_that_is_being_healed_ends_the_read_before_it() -> None:
    healing = (NOW - 3 * MINUTE, NOW - MINUTE)

    assert judge([healing, *tail(10)], edge(10)).settled_until == healing[0]


def test_what_is_taken_away_leaves_the_rest() -> None:
    a, b, c, d, e, f = (NOON + n * MINUTE for n in range(6))

    assert without([(a, d)], [(b, c)]) == [(a, b), (c, d)]
    assert without([(a, c), (d, f)], [(b, e)]) == [(a, b), (e, f)]
    assert without([(b, c)], [(a, d)]) == []
    assert without([(a, b)], []) == [(a, b)]


async def database_now(pool: asyncpg.Pool) -> datetime:
    now: datetime = await pool.fetchval("SELECT clock_timestamp()")
    return now.astimezone(UTC)


def busy_until(now: datetime, seconds: int = 1200, symbol: str = BTC) -> list[HistoricalTrade]:
    """A trade every two seconds, the last one a second ago."""
    return [make_trade(n, now - (2 * (seconds // 2 - 1 - n) + 1) * SECOND, symbol=symbol) for n in range(seconds // 2)]


@pytest.mark.parametrize("ahead", [timedelta(), timedelta(days=1)], ids=["now", "tomorrow"])
async def test_a_busy_symbol_is_read_up_to_the_present(
    ahead: timedelta, pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    now = await database_now(pool)
    await store.write(trades := busy_until(now))
    start, end = now - 15 * MINUTE, now + ahead

    candles = await history.get_candles(BTC, 1, start, end)
    found = await history.get_trades(BTC, start, end)
    merged = [each async for each in history.replay([BTC], [1, 5], start, end, 0, with_trades=True)]

    newest = trades[-1].timestamp
    assert candles[-1].timestamp == floor_minute(newest) - MINUTE
    assert candles == [each async for each in history.replay_candles(BTC, 1, start, end, 0)]
    assert found == [trade for trade in trades if start <= trade.timestamp < newest]
    assert found == [each async for each in history.replay_trades(BTC, start, end, 0)]
    assert [each for each in merged if isinstance(each, HistoricalTrade)] == found
    assert (await history.get_candles_arrow(BTC, 1, start, end)).num_rows == len(candles)
    assert (await history.get_latest_candles(BTC, 1, 5, gaps="raise")) == candles[-5:]
    assert (await history.get_warmup_data(BTC, 1, 5)) == candles[-5:]
    assert (await history.get_multi_timeframe_candles(BTC, now, [1], lookback=5))[1][-1] == candles[-1]
    assert (await history.require_complete(BTC, start, end)) == newest


async def test_a_quiet_symbol_beside_a_busy_one_is_read_up_to_the_present(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    now = await database_now(pool)
    quiet = [make_trade(n, now - 60 * MINUTE + n * MINUTE, symbol=XRP) for n in range(3)]
    await store.write([*busy_until(now), *quiet])
    start = floor_minute(quiet[0].timestamp) + MINUTE

    candles = await history.get_candles(XRP, 1, start, now)
    both = [each async for each in history.replay([BTC, XRP], [1], now - 5 * MINUTE, now, 0)]

    assert [candle.timestamp for candle in candles] == [start, start + MINUTE]
    assert {each.symbol for each in both} == {BTC}
    assert await history.get_warmup_data(XRP, 1, 2) == candles
    assert await history.get_latest_candles(XRP, 1, 2, gaps="raise") == candles
    padded = await history.get_latest_candles(XRP, 1, 30, gaps="pad")
    assert [candle.is_made_up for candle in padded] == [True] * 30


async def test_a_dead_feed_raises_and_says_since_when(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    now = await database_now(pool)
    await store.write(busy_until(now - 20 * MINUTE))
    newest = now - 20 * MINUTE - SECOND

    with pytest.raises(
        CoverageError, match="wait until the live feed has caught up, run `kraken-history backfill"
    ) as e:
        await history.get_candles(BTC, 1, now - 30 * MINUTE, now + timedelta(days=1))

    assert e.value.is_open
    assert [gap.start for gap in e.value.gaps] == [newest]
    assert now - MINUTE <= e.value.gaps[0].end <= now + MINUTE  # nobody can lack what is to come
    with pytest.raises(CoverageError):
        await history.get_latest_candles(BTC, 1, 5, gaps="raise")
    assert len(await history.get_warmup_data(BTC, 1, 5)) == 5  # following goes on from there


async def test_time_to_come_is_not_missing(pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider) -> None:
    now = await database_now(pool)
    await store.write(busy_until(now))

    assert await history.get_candles(BTC, 1, now + timedelta(hours=1), now + timedelta(hours=2)) == []


async def test_a_merged_replay_names_every_incomplete_symbol_before_the_first_record(
    store: Store, history: HistoricalDataProvider
) -> None:
    complete = [make_trade(n, NOON + n * MINUTE, symbol="ETH/USDT") for n in range(30)]
    holes = [make_trade(n, NOON + n * MINUTE, symbol=symbol) for symbol in (BTC, XRP) for n in range(30) if n != 20]
    await store.write([*complete, *holes])

    replay = history.replay(["ETH/USDT", BTC, XRP], [1], NOON, NOON + 29 * MINUTE, 0)
    with pytest.raises(CoverageError) as refusal:
        await anext(replay)

    assert set(refusal.value.by_symbol) == {BTC, XRP}
    assert refusal.value.symbol == BTC
    for symbol in (BTC, XRP):
        assert f"`kraken-history backfill {symbol} --from 2025-11-10T12:19:00Z" in str(refusal.value)


async def test_a_long_gap_is_padded_page_by_page(store: Store, history: HistoricalDataProvider) -> None:
    """A hundred days without a trade are made up as they are asked for."""
    end = NOON + timedelta(days=100)
    await store.write([make_trade(1), make_trade(2, end, "200")])
    count = 0
    async for candle in history.replay_candles(BTC, 1, NOON, end + MINUTE, 0, gaps="pad"):
        assert candle.timestamp == NOON + count * MINUTE
        assert candle.is_made_up == (candle.timestamp not in (NOON, end))
        count += 1

    assert count == timedelta(days=100) // MINUTE + 1


async def test_merged_candles_are_padded_and_trades_are_not(store: Store, history: HistoricalDataProvider) -> None:
    await store.write([make_trade(1), make_trade(2, NOON + 7 * MINUTE)])

    merged = [
        each async for each in history.replay([BTC], [1, 5], NOON, NOON + 10 * MINUTE, 0, with_trades=True, gaps="pad")
    ]

    minutes = [each for each in merged if not isinstance(each, HistoricalTrade) and each.interval_minutes == 1]
    assert [each.is_made_up for each in minutes] == [n not in (0, 7) for n in range(10)]
    assert len([each for each in merged if isinstance(each, HistoricalTrade)]) == 2


@pytest.mark.parametrize("read", ["candles", "trades"])
async def test_what_retention_drops_during_a_replay_is_noticed(
    read: str, pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(n, NOON + n * MINUTE) for n in range(10_000)])
    end = NOON + 9_999 * MINUTE
    replay: AsyncGenerator[HistoricalCandle | HistoricalTrade, None] = (
        history.replay_candles(BTC, 1, NOON, end, 0) if read == "candles" else history.replay_trades(BTC, NOON, end, 0)
    )

    assert (await anext(replay)).timestamp == NOON
    dropped = TimeRange(end - timedelta(days=1), end)
    await pool.execute(f"DELETE FROM {read} WHERE timestamp >= $1", dropped.start)  # noqa: S608 — one of two names
    await pool.execute("INSERT INTO dropped_ranges VALUES ($1, $2)", read, [asyncpg.Range(dropped.start, dropped.end)])

    with pytest.raises(CoverageError, match="retention has dropped it"):
        async for _ in replay:
            pass


async def test_candles_of_kraken_are_no_trades(
    pool: asyncpg.Pool, store: Store, history: HistoricalDataProvider
) -> None:
    await store.write(candles=[make_candle(NOON + n * MINUTE) for n in range(10)], candle_source="csv")

    assert len(await history.get_candles(BTC, 1, NOON, NOON + 10 * MINUTE)) == 10
    with pytest.raises(CoverageError):
        await history.get_trades(BTC, NOON, NOON + 10 * MINUTE)
    await cover(pool, BTC, TimeRange(NOON, NOON + 10 * MINUTE))
    assert await history.get_trades(BTC, NOON, NOON + 10 * MINUTE) == []


async def test_a_limit_of_trades_looks_no_further_than_it_reaches(
    store: Store, history: HistoricalDataProvider
) -> None:
    await store.write([make_trade(n, NOON + n * MINUTE) for n in range(10) if n != 5])

    assert [trade.id for trade in await history.get_trades(BTC, NOON, NOON + 9 * MINUTE, 4)] == [0, 1, 2, 3]
    with pytest.raises(CoverageError):
        await history.get_trades(BTC, NOON, NOON + 9 * MINUTE, 7)
