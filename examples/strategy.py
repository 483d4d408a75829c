"""A strategy small enough to read: buy when the fast average of closes rises above the slow one, sell when it falls.

Long only, one unit of the base asset, at the close of the candle that gave the signal. Decimals throughout: sums of
prices are exact, and averages are compared without dividing. It serves to show how candles reach a strategy; nobody
should trade with it.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from msgspec import Struct

from kraken_history.backtests import BacktestRun, EquityPoint
from kraken_history.reading.gaps import GapsChoice
from kraken_history.records import HistoricalCandle

NAME = "moving average cross"


class Rules(Struct, frozen=True):
    """The parameters of the strategy.

    Attributes:
        fast, slow: How many closes the averages are over.
        fee: Of each fill, as a part of its price: 0.0026 is 0.26 %.
    """

    fast: int = 5
    slow: int = 20
    fee: Decimal = Decimal("0.0026")

    def __post_init__(self) -> None:
        if not 1 <= self.fast < self.slow:
            raise ValueError(f"the fast average must be shorter than the slow one, not {self.fast} and {self.slow}")
        if not 0 <= self.fee < 1:
            raise ValueError(f"the fee is a part of the price, such as 0.0026, not {self.fee}")


class Fill(Struct, frozen=True):
    """One unit bought or sold."""

    symbol: str
    timestamp: datetime
    side: Literal["buy", "sell"]
    price: Decimal
    fee: Decimal


class MovingAverage:
    """Of the last ``length`` values, as their exact sum."""

    def __init__(self, length: int) -> None:
        self._values: deque[Decimal] = deque(maxlen=length)
        self.length = length
        self.total = Decimal(0)

    @property
    def is_full(self) -> bool:
        """True once there were as many values as it takes."""
        return len(self._values) == self.length

    def add(self, value: Decimal) -> None:
        """Let the newest value in, and the oldest out."""
        if self.is_full:
            self.total -= self._values[0]
        self._values.append(value)
        self.total += value

    def is_above(self, other: "MovingAverage") -> bool:
        """True if this average is the higher one."""
        return self.total * other.length > other.total * self.length


class Trader:
    """The strategy on one symbol, with its account, which begins with nothing and may borrow."""

    def __init__(self, symbol: str, rules: Rules) -> None:
        self.symbol = symbol
        self.fills: list[Fill] = []
        self.equity_curve: list[EquityPoint] = []
        self.candles = 0
        self.largest_drawdown = Decimal(0)
        self._fee = rules.fee
        self._fast, self._slow = MovingAverage(rules.fast), MovingAverage(rules.slow)
        self._cash = self._highest_equity = self._price = Decimal(0)
        self._units = 0

    @property
    def equity(self) -> Decimal:
        """Profit so far, an open position at the last price."""
        return self._cash + self._units * self._price

    def warm_up(self, candles: Iterable[HistoricalCandle]) -> None:
        """Fill the averages, without trading."""
        for candle in candles:
            self._fast.add(candle.close)
            self._slow.add(candle.close)

    def on_candle(self, candle: HistoricalCandle) -> Fill | None:
        """The action at the close of this candle."""
        self.warm_up([candle])
        self.candles += 1
        self._price = candle.close
        wants = int(self._slow.is_full and self._fast.is_above(self._slow))
        fill = self._trade(wants - self._units, close_time(candle)) if wants != self._units else None
        self._highest_equity = max(self._highest_equity, self.equity)
        self.largest_drawdown = max(self.largest_drawdown, self._highest_equity - self.equity)
        return fill

    def _trade(self, units: int, at: datetime) -> Fill:
        fill = Fill(self.symbol, at, "buy" if units > 0 else "sell", self._price, self._price * self._fee)
        self._cash -= units * fill.price + fill.fee
        self._units += units
        self.fills.append(fill)
        self.equity_curve.append(EquityPoint(at, self.equity))
        return fill


class Result(Struct, frozen=True):
    """What a trader came to, in the quote asset."""

    candles: int
    round_trips: int
    won: int
    profit: Decimal
    fees: Decimal
    largest_drawdown: Decimal


def result_of(trader: Trader) -> Result:
    """Sum up; a position that is still open counts at the last price, and not as a round trip."""
    pairs = list(zip(trader.fills[::2], trader.fills[1::2], strict=False))
    won = sum(sold.price - sold.fee > bought.price + bought.fee for bought, sold in pairs)
    fees = sum((fill.fee for fill in trader.fills), Decimal(0))
    return Result(trader.candles, len(pairs), won, trader.equity, fees, trader.largest_drawdown)


def run_of(
    traders: Sequence[Trader],
    rules: Rules,
    interval: int,
    start: datetime,
    end: datetime,
    gaps: GapsChoice = "ignore",
) -> BacktestRun:
    """A run to be saved."""
    return BacktestRun(
        strategy_name=NAME,
        symbols=tuple(trader.symbol for trader in traders),
        start_time=start,
        end_time=end,
        parameters={"interval": interval, "fast": rules.fast, "slow": rules.slow, "fee": rules.fee},
        metrics={trader.symbol: _as_json(result_of(trader)) for trader in traders},
        trades=[_as_json(fill) for trader in traders for fill in trader.fills],
        equity_curve=traders[0].equity_curve if len(traders) == 1 else None,
        gaps=gaps,
        interval=interval,
    )


def close_time(candle: HistoricalCandle) -> datetime:
    """When it is closed."""
    return candle.timestamp + timedelta(minutes=candle.interval_minutes)


def _as_json(record: Struct) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
