"""What the tests replay, and what a replay of it must give: computed here, from the trades alone."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from kraken_history.reading.replay import Clock
from kraken_history.records import HistoricalCandle, HistoricalTrade
from tests.support.examples import make_trade

MONDAY = datetime(2025, 3, 3, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SYMBOLS = ("BTC/USDT", "ETH/USDT")


def dense(symbol: str = "BTC/USDT", minutes: int = 600) -> list[HistoricalTrade]:
    """Every minute from Monday on, two trades at its start and one at its half; every seventh minute is quiet."""
    instants = [
        MONDAY + n * MINUTE + timedelta(seconds=second) for n in range(minutes) if n % 7 != 5 for second in (0, 0, 30)
    ]
    return [
        make_trade(id_, at, f"{100 + id_ % 13}.5", f"0.{id_ % 9 + 1}0", symbol=symbol)
        for id_, at in enumerate(instants, start=1)
    ]


def sparse(symbol: str = "XRP/BTC") -> list[HistoricalTrade]:
    """A trade long before, one every eleven days for a year, and a busy hour in the middle."""
    instants = [MONDAY - 700 * DAY, *(MONDAY + n * 11 * DAY for n in range(33))]
    instants += [MONDAY + 200 * DAY + n * MINUTE for n in range(60)]
    return [make_trade(id_, at, f"{id_}.25", symbol=symbol) for id_, at in enumerate(sorted(instants), start=1)]


def opens(trades: Sequence[HistoricalTrade], interval: int, start: datetime, end: datetime) -> list[datetime]:
    """Open times of the candles that trades make within ``[start, end)``."""
    width = timedelta(minutes=interval)
    found = sorted({trade.timestamp - (trade.timestamp - MONDAY) % width for trade in trades})
    return [at for at in found if at >= start and at + width <= end]


def within(trades: Iterable[HistoricalTrade], start: datetime, end: datetime) -> list[HistoricalTrade]:
    """The trades of ``[start, end)`` in the order of a replay."""
    return sorted((t for t in trades if start <= t.timestamp < end), key=lambda t: (t.timestamp, t.id))


def assert_made_of(candles: Iterable[HistoricalCandle], trades: Sequence[HistoricalTrade]) -> None:
    """Fail unless each candle says what its trades do."""
    for candle in candles:
        ends = candle.timestamp + timedelta(minutes=candle.interval_minutes)
        own = within(trades, candle.timestamp, ends)
        assert (candle.trade_count, candle.open, candle.close) == (len(own), own[0].price, own[-1].price)
        assert candle.volume == sum(trade.volume for trade in own)


class FakeClock(Clock):
    """Stands still but for what sleeps and what is added to it; remembers the pauses."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def seconds(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
