"""The arithmetic of the strategy that the examples share."""

from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest

from kraken_history.records import HistoricalCandle
from strategy import MovingAverage, Rules, Trader, result_of
from tests.support.examples import NOON, make_candle

RULES = Rules(fast=1, slow=2, fee=Decimal("0.01"))


def closes(*prices: str) -> list[HistoricalCandle]:
    return [make_candle(NOON + n * timedelta(minutes=1), close=price) for n, price in enumerate(prices)]


def test_a_moving_average_stays_exact() -> None:
    average = MovingAverage(3)
    for _ in range(10_000):
        for price in ("0.1", "0.00000007", "104123.1"):
            average.add(Decimal(price))

    assert average.total == Decimal("104123.20000007")


def test_it_buys_above_and_sells_below_and_pays_for_both() -> None:
    trader = Trader("BTC/USDT", RULES)
    fills = [trader.on_candle(candle) for candle in closes("100", "100", "110", "120", "115", "90")]
    result = result_of(trader)

    assert [fill and (fill.side, fill.price, fill.fee) for fill in fills] == [
        None, None, ("buy", Decimal(110), Decimal("1.10")), None, ("sell", Decimal(115), Decimal("1.15")), None,
    ]  # fmt: skip
    assert (result.round_trips, result.won, result.profit, result.fees) == (1, 1, Decimal("2.75"), Decimal("2.25"))
    assert result.largest_drawdown == Decimal("8.90") - Decimal("2.75")


def test_fills_carry_the_close_of_their_candle() -> None:
    trader = Trader("BTC/USDT", RULES)
    candle = msgspec.structs.replace(closes("110")[0], interval_minutes=60)
    trader.warm_up(closes("90", "100"))
    fill = trader.on_candle(candle)

    assert fill is not None
    assert fill.timestamp == NOON + timedelta(hours=1)


def test_warming_up_does_not_trade_and_joins_without_a_seam() -> None:
    candles = closes("100", "100", "110", "120", "115", "90", "95", "99")
    cold, warm = Trader("BTC/USDT", RULES), Trader("BTC/USDT", RULES)
    warm.warm_up(candles[:2])
    for candle in candles[2:]:
        warm.on_candle(candle)
    for candle in candles:
        cold.on_candle(candle)

    assert warm.fills == cold.fills
    assert warm.equity == cold.equity


@pytest.mark.parametrize("wrong", [{"fast": 20}, {"fast": 0}, {"fee": Decimal(1)}, {"fee": Decimal(-1)}])
def test_rules_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="the f"):
        Rules(**wrong)  # type: ignore[arg-type]
