"""The last so many buckets."""

from datetime import timedelta

import pytest

from kraken_history.errors import InvalidNumber, InvalidTime, UnknownInterval
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.store import Store
from tests.replay.history import DAY, HOUR, MINUTE, MONDAY, assert_made_of, dense, opens


async def test_buckets_are_counted_back_from_the_last_that_is_closed(
    store: Store, provider: HistoricalDataProvider
) -> None:
    await store.write(dense())
    end = MONDAY + 9 * HOUR + timedelta(minutes=31, seconds=30)

    found = await provider.get_multi_timeframe_candles("BTC/USDT", end, [1, 45, 60], lookback=10, gaps="ignore")

    for interval, last in ((1, MONDAY + 9 * HOUR + 31 * MINUTE), (45, MONDAY + 9 * HOUR), (60, MONDAY + 9 * HOUR)):
        first = max(last - 10 * interval * MINUTE, MONDAY)
        assert [c.timestamp for c in found[interval]] == opens(dense(), interval, first, last), interval
        assert_made_of(found[interval], dense())
    assert [len(found[interval]) for interval in (1, 45, 60)] == [9, 10, 9]


async def test_looking_back_past_the_beginning_of_time_is_no_error(
    store: Store, provider: HistoricalDataProvider
) -> None:
    await store.write(dense(minutes=120))
    early = MONDAY.replace(year=1969)

    assert (
        len(
            (
                await provider.get_multi_timeframe_candles(
                    "BTC/USDT", MONDAY + DAY, [60], lookback=2**31 - 1, gaps="ignore"
                )
            )[60]
        )
        == 2
    )
    assert await provider.get_multi_timeframe_candles("BTC/USDT", early, [60], gaps="ignore") == {60: []}


async def test_what_cannot_be_looked_back_at_is_refused(provider: HistoricalDataProvider) -> None:
    with pytest.raises(InvalidNumber, match="lookback"):
        await provider.get_multi_timeframe_candles("BTC/USDT", MONDAY, [60], lookback=0, gaps="ignore")
    with pytest.raises(UnknownInterval):
        await provider.get_multi_timeframe_candles("BTC/USDT", MONDAY, [0], gaps="ignore")
    with pytest.raises(InvalidTime):
        await provider.get_multi_timeframe_candles("BTC/USDT", MONDAY.replace(tzinfo=None), [60], gaps="ignore")
