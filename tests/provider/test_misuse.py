"""What cannot be answered is refused with an error of ours that carries the offending value."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.errors import (
    HistoryError,
    InvalidChoice,
    InvalidNumber,
    InvalidRange,
    InvalidTime,
    ProviderClosed,
    ServiceUnavailable,
    UnknownInterval,
    UnknownSymbol,
    UsageError,
)
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
END = MONDAY + timedelta(hours=3)
SYMBOL = "BTC/USDT"

Ask = Callable[[HistoricalDataProvider, str, Any, Any, Any], Awaitable[object]]


async def _drain(replay: Callable[[], AsyncIterator[object]]) -> list[object]:
    return [item async for item in replay()]


# Every read with a range, as a function of symbol, interval, start and end.
RANGED: dict[str, Ask] = {
    "get_candles": lambda p, s, i, a, z: p.get_candles(s, i, a, z, gaps="ignore"),
    "get_candles raise": lambda p, s, i, a, z: p.get_candles(s, i, a, z, gaps="raise"),
    "get_candles pad": lambda p, s, i, a, z: p.get_candles(s, i, a, z, gaps="pad"),
    "get_candles_arrow": lambda p, s, i, a, z: p.get_candles_arrow(s, i, a, z, gaps="ignore"),
    "get_candles_frame": lambda p, s, i, a, z: p.get_candles_frame(s, i, a, z, gaps="ignore"),
    "replay_candles": lambda p, s, i, a, z: _drain(lambda: p.replay_candles(s, i, a, z, 0, gaps="ignore")),
    "replay": lambda p, s, i, a, z: _drain(lambda: p.replay([s], [i], a, z, 0, gaps="ignore")),
}
RANGED_WITHOUT_INTERVAL: dict[str, Ask] = {
    "get_trades": lambda p, s, _, a, z: p.get_trades(s, a, z, gaps="ignore"),
    "replay_trades": lambda p, s, _, a, z: _drain(lambda: p.replay_trades(s, a, z, 0, gaps="ignore")),
    "get_coverage": lambda p, s, _, a, z: p.get_coverage(s, a, z),
}
# The others, of which each takes what it can.
COUNTED: dict[str, Ask] = {
    "get_latest_candles": lambda p, s, i, _, __: p.get_latest_candles(s, i, 3),
    "get_warmup_data": lambda p, s, i, _, __: p.get_warmup_data(s, i, 3, gaps="ignore"),
    "get_multi_timeframe_candles": lambda p, s, i, _, z: p.get_multi_timeframe_candles(s, z, [i], gaps="ignore"),
    "get_data_range": lambda p, s, _, __, ___: p.get_data_range(s),
}
ALL = RANGED | RANGED_WITHOUT_INTERVAL | COUNTED


@pytest.fixture
async def provider(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    pool = await create_pool(migrated_database_url, min_size=1, max_size=1)
    await Store(pool).write([HistoricalTrade(1, SYMBOL, MONDAY, Decimal("1.5"), Decimal(2), "sell", "market")])
    await pool.close()
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as provider:
        yield provider


pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def refused(asked: Awaitable[object]) -> HistoryError:
    with pytest.raises(HistoryError) as caught:
        await asked
    assert "\n" not in str(caught.value)
    return caught.value


async def test_an_unknown_symbol(provider: HistoricalDataProvider) -> None:
    for name, symbol in product(ALL, ("DOGE/USDT", "nonsense", "x'; DROP TABLE trades; --", "")):
        error = await refused(ALL[name](provider, symbol, 60, MONDAY, END))

        assert isinstance(error, UnknownSymbol), name
        assert error.symbol == symbol


async def test_an_interval_that_cannot_be(provider: HistoricalDataProvider) -> None:
    names = (*RANGED, "get_latest_candles", "get_warmup_data", "get_multi_timeframe_candles")
    for name, interval in product(names, (0, -5, 525_601, 1.5, "60", True, None)):
        error = await refused(ALL[name](provider, SYMBOL, interval, MONDAY, END))

        assert isinstance(error, UnknownInterval), name
        assert error.interval is interval


async def test_naive_times(provider: HistoricalDataProvider) -> None:
    naive = END.replace(tzinfo=None)
    wrong = ((naive, END, naive), (MONDAY, naive, naive), (MONDAY, "2026-01-05", "2026-01-05"))
    for name, (start, end, value) in product(RANGED | RANGED_WITHOUT_INTERVAL, wrong):
        error = await refused(ALL[name](provider, SYMBOL, 60, start, end))

        assert isinstance(error, InvalidTime), name
        assert error.value == value


async def test_reversed_and_empty_ranges(provider: HistoricalDataProvider) -> None:
    for name, (start, end) in product(RANGED | RANGED_WITHOUT_INTERVAL, ((END, MONDAY), (MONDAY, MONDAY))):
        error = await refused(ALL[name](provider, SYMBOL, 60, start, end))

        assert isinstance(error, InvalidRange), name
        assert (error.start, error.end) == (start, end)


@pytest.mark.parametrize("count", [0, 1.5])
async def test_counts_that_cannot_be(count: Any, provider: HistoricalDataProvider) -> None:
    asked = (
        provider.get_latest_candles(SYMBOL, 1, count),
        provider.get_candles(SYMBOL, 1, MONDAY, END, count, gaps="ignore"),
        provider.get_candles(SYMBOL, 1, MONDAY, END, count, gaps="pad"),
        provider.get_warmup_data(SYMBOL, 1, count, gaps="ignore"),
        provider.get_trades(SYMBOL, MONDAY, END, count, gaps="ignore"),
        provider.get_multi_timeframe_candles(SYMBOL, END, [1], lookback=count, gaps="ignore"),
    )
    for number, each in enumerate(asked):
        error = await refused(each)

        assert isinstance(error, InvalidNumber), number
        assert error.value is count


async def test_what_is_no_list_and_no_run(provider: HistoricalDataProvider) -> None:
    wrong: Any = 60
    for asked, words in {
        provider.get_multi_timeframe_candles(SYMBOL, END, wrong, gaps="ignore"): "intervals: expected a list, got 60",
        provider.get_multi_timeframe_candles(SYMBOL, END, ["60"], gaps="ignore"): "got '60'",  # type: ignore[list-item]
        provider.save_run(wrong): "save_run takes a BacktestRun, not int",
    }.items():
        error = await refused(asked)

        assert isinstance(error, UsageError)
        assert words in str(error)


async def test_numbers_and_lists_may_come_out_of_frames(provider: HistoricalDataProvider) -> None:
    one: Any = np.int64(1)
    five_and_one: Any = np.array([5, 1])
    symbols: Any = pd.Index([SYMBOL])
    start, end = pd.Timestamp(MONDAY), pd.Timestamp(END)
    [candle] = await provider.get_latest_candles(SYMBOL, one, one)

    assert await provider.get_candles(SYMBOL, one, start, end, one, gaps="ignore") == [candle]
    assert await provider.get_candles(SYMBOL, one, start, end, one, gaps="pad") == [candle]
    assert await provider.get_candles(SYMBOL, one, start, end, one, as_of=start) == []
    assert len(await provider.get_trades(SYMBOL, start, end, one, gaps="ignore")) == 1
    assert (await provider.get_candles_arrow(SYMBOL, one, start, end, gaps="ignore")).num_rows == 1
    assert (await provider.get_candles_frame(SYMBOL, one, start, end, gaps="pad")).height > 1
    assert await provider.get_warmup_data(SYMBOL, one, one, end=end, gaps="ignore") == [candle]
    assert await _drain(lambda: provider.replay_candles(SYMBOL, one, start, end, 0, gaps="ignore")) == [candle]
    assert len(await _drain(lambda: provider.replay(symbols, five_and_one, start, end, 0, gaps="ignore"))) == 2
    assert list(await provider.get_multi_timeframe_candles(SYMBOL, end, five_and_one, gaps="ignore")) == [5, 1]
    assert await provider.list_runs(limit=one) == []
    provider.follow_candles(symbols, one, start=start)


async def test_times_of_pandas_come_back_as_plain_ones(provider: HistoricalDataProvider) -> None:
    """They came back with nanoseconds, and with what pandas thinks of arithmetic."""
    start, end = (pd.Timestamp(each) + pd.Timedelta(1_001, "ns") for each in (MONDAY, END))

    coverage = await provider.get_coverage(SYMBOL, start, end)

    times = [coverage.start, coverage.end, *(each for span in coverage.spans for each in (span.start, span.end))]
    assert {type(each) for each in times} == {datetime}
    assert (coverage.start, coverage.end) == tuple(each + timedelta(microseconds=1) for each in (MONDAY, END))


async def test_speeds_that_cannot_be(provider: HistoricalDataProvider) -> None:
    replays: Sequence[Callable[[Any], object]] = (
        lambda speed: provider.replay_candles(SYMBOL, 1, MONDAY, END, speed, gaps="ignore"),
        lambda speed: provider.replay_trades(SYMBOL, MONDAY, END, speed, gaps="ignore"),
        lambda speed: provider.replay([SYMBOL], [1], MONDAY, END, speed, gaps="ignore"),
    )
    for replay, speed in product(replays, (-1.0, float("nan"), float("inf"), "fast")):
        with pytest.raises(InvalidNumber) as caught:
            replay(speed)
        assert caught.value.value is speed


async def test_words_that_are_no_choice(provider: HistoricalDataProvider) -> None:
    wrong: Any = "sometimes"
    for asked in (
        provider.get_candles(SYMBOL, 1, MONDAY, END, gaps=wrong),
        provider.get_candles_arrow(SYMBOL, 1, MONDAY, END, numbers=wrong, gaps="ignore"),
        provider.get_candles_frame(SYMBOL, 1, MONDAY, END, as_=wrong, gaps="ignore"),
    ):
        error = await refused(asked)

        assert isinstance(error, InvalidChoice)
        assert error.value == wrong


async def test_a_provider_that_is_closed(provider: HistoricalDataProvider) -> None:
    await provider.close()
    await provider.close()

    for name, ask in ALL.items():
        assert isinstance(await refused(ask(provider, SYMBOL, 60, MONDAY, END)), ProviderClosed), name


async def test_a_closed_provider_can_be_opened_again(provider: HistoricalDataProvider) -> None:
    await provider.close()
    await provider.connect()
    await provider.connect()

    assert len(await provider.get_candles(SYMBOL, 60, MONDAY, END, gaps="ignore")) == 1


async def test_extreme_times_are_no_bug(provider: HistoricalDataProvider) -> None:
    ends = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

    assert len(await provider.get_candles(SYMBOL, 10080, *ends, gaps="ignore")) == 1
    assert len(await provider.get_trades(SYMBOL, *ends, gaps="ignore")) == 1


async def test_more_candles_than_there_ever_were_are_all_there_are(provider: HistoricalDataProvider) -> None:
    for _ in range(2):  # the second time by what the first has shown
        assert len(await provider.get_latest_candles(SYMBOL, 1, 2**31 - 1)) == 1
        assert len(await provider.get_latest_candles(SYMBOL, 525_600, 2**31 - 1)) == 1


async def test_several_hosts_are_tried_in_turn(provider: HistoricalDataProvider, migrated_database_url: str) -> None:
    account, _, place = migrated_database_url.rpartition("@")
    host, _, name = place.partition("/")

    async with HistoricalDataProvider(f"{account}@127.0.0.1:1,{host}/{name}", 1, 1) as replicas:
        assert await replicas.get_candles(SYMBOL, 60, MONDAY, END, gaps="ignore")
        assert (await replicas.get_candles_arrow(SYMBOL, 60, MONDAY, END, gaps="ignore")).num_rows == 1


@pytest.mark.parametrize("url", ["", "not a url", "mysql://a@b/c", "postgresql://h:port/x"])
async def test_a_url_that_is_none(url: str, database_url: str) -> None:
    with pytest.raises(UsageError, match="postgresql://user:password@host:5432/name"):
        await HistoricalDataProvider(url).connect()


async def test_health_says_what_is_wrong(provider: HistoricalDataProvider, database_url: str) -> None:
    well = await provider.health_check()
    down = await HistoricalDataProvider("postgresql://me:secret@127.0.0.1:1/x").health_check()
    empty = await HistoricalDataProvider(database_url, 1, 1).health_check()

    assert (well.is_healthy, well.reason, well.newest_timestamp) == (True, "", MONDAY)
    assert "PostgreSQL" in well.server
    assert well.latency_s > 0
    assert not down.is_healthy
    assert "127.0.0.1:1/x" in down.reason
    assert "secret" not in down.reason
    assert "kraken-history migrate" in empty.reason


async def test_a_database_that_went_away_is_told_and_found_again(
    provider: HistoricalDataProvider, migrated_database_url: str
) -> None:
    pool = await create_pool(migrated_database_url, min_size=1, max_size=1)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"
    async with pool.acquire() as connection:
        await connection.fetch(cut, connection.get_server_pid())
    await pool.close()

    try:
        await provider.get_symbols()
    except ServiceUnavailable as error:
        assert "try again" in str(error)  # noqa: PT017 — whether the pool notices in time is not ours to say
    assert await provider.get_symbols() == [SYMBOL]
