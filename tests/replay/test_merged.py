"""Several streams as one, in the order of becoming known."""

import asyncio
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.replay import AnyStream, Clock, Pacer, Stream, candle_moment, replay_streams, trade_moment
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.store import Store
from tests.replay.history import HOUR, MINUTE, MONDAY, SYMBOLS, dense, opens, within
from tests.support.examples import make_candle, make_trade

Known = HistoricalCandle | HistoricalTrade


def rank(record: Known) -> tuple[Any, ...]:
    """The order in words of one tuple."""
    if isinstance(record, HistoricalTrade):
        return record.timestamp, 1, SYMBOLS.index(record.symbol), record.id
    closes = record.timestamp + record.interval_minutes * MINUTE
    return closes, 0, record.interval_minutes, SYMBOLS.index(record.symbol)


def title(record: Known) -> tuple[str, str]:
    """Symbol, and interval or id."""
    kind = f"#{record.id}" if isinstance(record, HistoricalTrade) else f"{record.interval_minutes}m"
    return record.symbol, kind


async def test_an_hour_comes_after_its_last_minute_and_before_the_next_trade(
    store: Store, provider: HistoricalDataProvider
) -> None:
    noon = MONDAY + 12 * HOUR
    await store.write(
        [
            make_trade(id_, at, symbol=symbol)
            for symbol in SYMBOLS
            for id_, at in ((1, noon + 59 * MINUTE), (2, noon + HOUR), (3, noon + HOUR), (4, noon + HOUR + MINUTE))
        ]
    )

    replay = provider.replay(
        ["ETH/USDT", "BTC/USDT"], [60, 1], noon, noon + HOUR + MINUTE, 0, with_trades=True, gaps="ignore"
    )

    assert [title(record) async for record in replay] == [
        ("ETH/USDT", "#1"),
        ("BTC/USDT", "#1"),
        ("ETH/USDT", "1m"),
        ("BTC/USDT", "1m"),
        ("ETH/USDT", "60m"),
        ("BTC/USDT", "60m"),
        ("ETH/USDT", "#2"),
        ("ETH/USDT", "#3"),
        ("BTC/USDT", "#2"),
        ("BTC/USDT", "#3"),
        ("ETH/USDT", "1m"),
        ("BTC/USDT", "1m"),
    ]


async def test_all_is_merged_and_what_is_given_twice_comes_once(store: Store, provider: HistoricalDataProvider) -> None:
    trades = {symbol: dense(symbol, 400) for symbol in SYMBOLS}
    for each in trades.values():
        await store.write(each)
    start, end = MONDAY + timedelta(seconds=30), MONDAY + 6 * HOUR
    intervals = [45, 1, 60, 45, 1]

    replay = provider.replay([*SYMBOLS, SYMBOLS[0]], intervals, start, end, 0, with_trades=True, gaps="ignore")
    found = [record async for record in replay]

    assert found == sorted(found, key=lambda record: rank(record))
    for symbol in SYMBOLS:
        own = [record for record in found if record.symbol == symbol]
        assert [r for r in own if isinstance(r, HistoricalTrade)] == within(trades[symbol], start, end)
        for interval in (1, 45, 60):
            assert [
                r.timestamp for r in own if isinstance(r, HistoricalCandle) and r.interval_minutes == interval
            ] == opens(trades[symbol], interval, start, end)


async def test_trades_alone_are_merged_too(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write([make_trade(1, MONDAY + HOUR), make_trade(1, MONDAY, symbol="ETH/USDT")])

    replay = provider.replay(SYMBOLS, [], MONDAY, MONDAY + 2 * HOUR, 0, with_trades=True, gaps="ignore")

    assert [title(record) async for record in replay] == [("ETH/USDT", "#1"), ("BTC/USDT", "#1")]


def stream_of(records: list[Known], size: int, place: int) -> AnyStream:
    """Records of one kind in pages of this size."""
    pages = iter([records[n : n + size] for n in range(0, len(records), size)])

    async def read() -> list[Any]:
        return next(pages, [])

    first = records[0]
    if isinstance(first, HistoricalTrade):
        return Stream[HistoricalTrade](read, trade_moment(place))
    return Stream[HistoricalCandle](read, candle_moment(first.interval_minutes, place))


def kinds() -> st.SearchStrategy[list[list[Known]]]:
    """By symbol, candles of one and of three minutes and trades, few enough minutes apart to meet often."""
    numbers = st.lists(st.integers(0, 8), max_size=9, unique=True).map(sorted)

    def records(symbol: str, ones: list[int], threes: list[int], trades: list[int]) -> list[list[Known]]:
        return [
            [make_candle(MONDAY + n * MINUTE, symbol=symbol) for n in ones],
            [replace(make_candle(MONDAY + 3 * n * MINUTE, symbol=symbol), interval_minutes=3) for n in threes],
            [make_trade(id_, MONDAY + id_ // 3 * MINUTE, symbol=symbol) for id_ in trades],
        ]

    return st.tuples(*(st.builds(records, st.just(s), numbers, numbers, numbers) for s in SYMBOLS)).map(
        lambda found: [each for of_symbol in found for each in of_symbol]
    )


@given(kinds(), st.integers(1, 4))
def test_any_streams_come_in_the_order_of_becoming_known(streams: list[list[Known]], size: int) -> None:
    async def merged() -> list[Known]:
        given_ = [stream_of(each, size, SYMBOLS.index(each[0].symbol)) for each in streams if each]
        return [record async for record in replay_streams(given_, Pacer(0, Clock()))]

    found = asyncio.run(merged())

    assert found == sorted((r for each in streams for r in each), key=lambda record: rank(record))
