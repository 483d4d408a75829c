"""What cannot be replayed is refused by the call, not by the first step."""

import math
from collections.abc import Callable
from datetime import datetime

import pytest

from kraken_history.errors import (
    InvalidNumber,
    InvalidRange,
    InvalidTime,
    ProviderClosed,
    UnknownInterval,
    UnknownSymbol,
    UsageError,
)
from kraken_history.provider import HistoricalDataProvider
from kraken_history.storing.store import Store
from tests.replay.history import DAY, HOUR, MONDAY
from tests.support.examples import make_trade

NAIVE = MONDAY.replace(tzinfo=None)
CLOSED = HistoricalDataProvider("postgresql://nobody@127.0.0.1:1/nowhere")

Replay = Callable[[str, datetime, datetime, float], object]

EACH: list[Replay] = [
    lambda symbol, start, end, speed: CLOSED.replay_candles(symbol, 1, start, end, speed, gaps="ignore"),
    lambda symbol, start, end, speed: CLOSED.replay_trades(symbol, start, end, speed, gaps="ignore"),
    lambda symbol, start, end, speed: CLOSED.replay([symbol], [1], start, end, speed, with_trades=True, gaps="ignore"),
]


@pytest.mark.parametrize("replay", EACH, ids=["candles", "trades", "merged"])
def test_bad_arguments_are_refused_by_the_call(replay: Replay) -> None:
    with pytest.raises(UnknownSymbol):
        replay("BTC-USDT", MONDAY, MONDAY + DAY, 0)
    with pytest.raises(InvalidTime):
        replay("BTC/USDT", NAIVE, MONDAY, 0)
    with pytest.raises(InvalidTime):
        replay("BTC/USDT", MONDAY, NAIVE, 0)
    with pytest.raises(InvalidRange):
        replay("BTC/USDT", MONDAY, MONDAY, 0)
    for speed in (-1, -math.inf, math.inf, math.nan, 10**400, True, "fast", None):
        with pytest.raises(InvalidNumber, match="speed: expected 0 or a positive number"):
            replay("BTC/USDT", MONDAY, MONDAY + DAY, speed)  # type: ignore[arg-type]


def test_intervals_that_there_are_not_are_refused() -> None:
    with pytest.raises(UnknownInterval):
        CLOSED.replay_candles("BTC/USDT", 0, MONDAY, MONDAY + DAY, gaps="ignore")
    with pytest.raises(UnknownInterval):
        CLOSED.replay(["BTC/USDT"], [1, 1.5], MONDAY, MONDAY + DAY, gaps="ignore")  # type: ignore[list-item]


def test_lists_that_hold_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"symbols: expected a list of at least one item, got \[\]"):
        CLOSED.replay([], [1], MONDAY, MONDAY + DAY, gaps="ignore")
    with pytest.raises(UsageError, match="symbols: expected a list of at least one item, got 'BTC/USDT'"):
        CLOSED.replay("BTC/USDT", [1], MONDAY, MONDAY + DAY, gaps="ignore")
    with pytest.raises(UsageError, match=r"intervals: expected a list of at least one item, got \(\)"):
        CLOSED.replay(["BTC/USDT"], (), MONDAY, MONDAY + DAY, gaps="ignore")
    with pytest.raises(UsageError, match="intervals: expected a list of at least one item, got 60"):
        CLOSED.replay(["BTC/USDT"], 60, MONDAY, MONDAY + DAY, gaps="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="intervals: expected a list, got 60"):
        CLOSED.replay(["BTC/USDT"], 60, MONDAY, MONDAY + DAY, with_trades=True, gaps="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"expected BASE/QUOTE, such as BTC/USDT, got \['BTC/USDT'\]"):
        CLOSED.replay([["BTC/USDT"]], [1], MONDAY, MONDAY + DAY, gaps="ignore")  # type: ignore[list-item]


async def test_a_closed_provider_says_so_at_the_first_step() -> None:
    with pytest.raises(ProviderClosed):
        await anext(CLOSED.replay_candles("BTC/USDT", 1, MONDAY, MONDAY + DAY, gaps="ignore"))


async def test_a_symbol_of_which_nothing_is_stored_is_told(store: Store, provider: HistoricalDataProvider) -> None:
    await store.write([make_trade(1, MONDAY)])
    end = MONDAY + HOUR

    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await anext(provider.replay_candles("ETH/USDT", 1, MONDAY, end, 0, gaps="ignore"))
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await anext(provider.replay_candles("ETH/USDT", 10080, MONDAY, end, 0, gaps="ignore"))
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await anext(provider.replay_trades("ETH/USDT", MONDAY, end, 0, gaps="ignore"))
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await anext(provider.replay(["BTC/USDT", "ETH/USDT"], [1], MONDAY, end, 0, gaps="ignore"))
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await provider.get_trades("ETH/USDT", MONDAY, end, gaps="ignore")
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT"):
        await provider.get_multi_timeframe_candles("ETH/USDT", end, [60], gaps="ignore")
