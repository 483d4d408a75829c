"""The nouns of the project: frozen, complete, and without I/O.

Prices and volumes are :class:`~decimal.Decimal` in canonical form: without trailing zeros after the decimal point,
and never with a positive exponent, so the same trade has the same digits whichever way it came. Times are aware and in
UTC. Ranges are half-open, ``[start, end)``.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, localcontext
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct

Side = Literal["buy", "sell"]
CandleSource = Literal["ohlc", "csv", "trades"]
"""Where a candle came from, weakest first: the exchange's own candle, a download, the trades themselves."""

AwareDatetime = Annotated[datetime, Meta(tz=True)]
TradeId = Annotated[int, Meta(ge=0, le=2**63 - 2)]  # the end of a range of ids must be a bigint too
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]

EXACT = Context(prec=256)
"""Arithmetic that does not round: sums and products of prices and volumes that are let in have fewer digits."""

VWAP_DECIMALS = 10
"""A computed vwap is truncated, as Kraken truncates its own, to ten decimals, the most a Kraken pair has."""

MINUTE = timedelta(minutes=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HistoricalTrade(Struct, frozen=True, array_like=True, gc=False):
    """One trade.

    Attributes:
        id: Kraken's ``trade_id``, a sequence of each book without holes.
        symbol: Our name of the pair, ``BTC/USDT``.
        timestamp: Time of the trade, cut to microseconds. The same trade can carry times that differ
            by about a microsecond over WebSocket and REST, so the time is not part of its identity.
        price: In the quote asset.
        volume: In the base asset.
        side: The taker's side.
        order_type: The taker's order type, ``market`` or ``limit``.
        misc: Kraken's miscellaneous flags, mostly empty; WebSocket does not send them.
    """

    id: TradeId
    symbol: str
    timestamp: AwareDatetime
    price: Decimal
    volume: Decimal
    side: Side
    order_type: str
    misc: str = ""


class RefusedTrade(Struct, frozen=True, array_like=True, gc=False):
    """A trade that Kraken showed, and that cannot be stored, because one of its values is not valid.

    Attributes:
        timestamp: Time of the trade; None if it could not be read, or is impossible.
        reason: The value that is not valid.
        row: The row as it came, as text.
    """

    id: TradeId
    symbol: str
    timestamp: AwareDatetime | None
    reason: str
    row: str = ""


class UnreadableRow(Struct, frozen=True):
    """A row of a page of trades whose trade id cannot be read. It may be any trade, so that nothing is known of it.

    Attributes:
        row: The row as it came, as text.
    """

    symbol: str
    reason: str
    row: str


class UnreachableTrades(Struct, frozen=True):
    """Missing trades of one instant that REST cannot show, because Kraken has more of that instant than a page holds.

    Attributes:
        timestamp: The instant.
        first_id: Lowest missing id.
        last_id: Highest missing id. Ids in between may be stored, if they came over the WebSocket.
    """

    symbol: str
    timestamp: AwareDatetime
    first_id: TradeId
    last_id: TradeId


class HistoricalCandle(Struct, frozen=True, array_like=True, gc=False):
    """One candle of ``[timestamp, timestamp + interval_minutes)``.

    Attributes:
        timestamp: Open time of the candle.
        interval_minutes: Length in minutes.
        volume: In the base asset.
        quote_volume: In the quote asset; for a candle not built from trades, ``volume * vwap``.
        trade_count: How many trades the candle holds.
        vwap: Volume-weighted average price; see :attr:`vwap_is_approximate`.
        source: Where the candle came from. That of a longer candle is the weakest source of its minutes.
    """

    symbol: str
    timestamp: AwareDatetime
    interval_minutes: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trade_count: Count
    vwap: Decimal
    source: CandleSource = "ohlc"  # entries that were encoded before this field existed hold the exchange's candles

    @property
    def vwap_is_approximate(self) -> bool:
        """True unless all of the candle is built from trades.

        Kraken cuts its own vwap to the decimals of the pair's price. A download has none: its vwap is the typical price
        of each minute, unless the download lists the trades.
        """
        return self.source != "trades"

    @property
    def typical_price(self) -> Decimal:
        """Mean of high, low and close."""
        return (self.high + self.low + self.close) / 3

    @property
    def range(self) -> Decimal:
        """High minus low."""
        return self.high - self.low

    @property
    def is_made_up(self) -> bool:
        """True for a :class:`MadeUpCandle`."""
        return False


class MadeUpCandle(HistoricalCandle, frozen=True, array_like=True, gc=False):
    """A flat candle at the last close, in place of one that is not there: nobody traded, or it is missing.

    Its source is the weakest, whatever source the candle has whose close it repeats. It is not equal to a candle with
    the same values. It is encoded like a candle, so a decoded one has lost the mark.
    """

    @property
    def is_made_up(self) -> bool:
        """True."""
        return True

    @classmethod
    def after(cls, last: HistoricalCandle, timestamp: datetime) -> "MadeUpCandle":
        """The candle of the same symbol and interval that opens at ``timestamp``, at the close of ``last``."""
        close, nothing = last.close, Decimal(0)
        return cls(
            last.symbol,
            timestamp,
            last.interval_minutes,
            close,
            close,
            close,
            close,
            nothing,
            nothing,
            0,
            close,
        )


class ExternalIndicator(Struct, frozen=True):
    """A daily figure from outside Kraken, such as ``fear_greed`` from ``alternative.me``."""

    timestamp: AwareDatetime
    indicator_name: str
    value: Decimal
    source: str


class TimeRange(Struct, frozen=True, order=True):
    """``[start, end)``, valid once built.

    Raises:
        ValueError: A bound is naive, or the range is empty or reversed.
    """

    start: AwareDatetime
    end: AwareDatetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("a time range needs aware datetimes, such as datetime(2026, 1, 1, tzinfo=UTC)")
        if self.start >= self.end:
            raise ValueError(f"a time range needs start < end, not {self.start} … {self.end}")

    @property
    def duration(self) -> timedelta:
        """End minus start."""
        return self.end - self.start


class DataGap(Struct, frozen=True):
    """A wanted range that is not covered."""

    symbol: str
    data_type: str
    start_time: AwareDatetime
    end_time: AwareDatetime
    duration: timedelta

    @classmethod
    def between(cls, symbol: str, data_type: str, start_time: datetime, end_time: datetime) -> "DataGap":
        """Build a gap whose duration agrees with its bounds."""
        return cls(symbol, data_type, start_time, end_time, end_time - start_time)

    @property
    def is_small(self) -> bool:
        """True under 12 hours, what one OHLC answer of 720 one-minute candles can span."""
        return self.duration < timedelta(hours=12)

    @property
    def candles_needed(self) -> int:
        """How many one-minute candles fit into the gap."""
        return self.duration // MINUTE


Record = TypeVar("Record", HistoricalTrade, HistoricalCandle)
Grouped = TypeVar("Grouped", HistoricalTrade, HistoricalCandle, RefusedTrade)


def group_by_symbol(records: Iterable[Grouped]) -> dict[str, list[Grouped]]:
    """Records by symbol, in their order."""
    groups: dict[str, list[Grouped]] = {}
    for record in records:
        groups.setdefault(record.symbol, []).append(record)
    return groups


def floor_minute(timestamp: datetime) -> datetime:
    """Open time of the one-minute candle that holds ``timestamp``."""
    return timestamp.replace(second=0, microsecond=0)


def truncated_vwap(quote_volume: Decimal, volume: Decimal) -> Decimal:
    """``quote_volume / volume`` cut (not rounded) to :data:`VWAP_DECIMALS` decimals; zero without volume.

    The schema computes the same in SQL, digit for digit.
    """
    if not volume:
        return Decimal(0)
    with localcontext(EXACT):
        return (quote_volume.scaleb(VWAP_DECIMALS) // volume).scaleb(-VWAP_DECIMALS)


def utc_from_unix_ns(nanoseconds: int) -> datetime:
    """The aware UTC time of a unix time in nanoseconds, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def unix_ns(moment: datetime) -> int:
    """Nanoseconds since 1970, which is what ``since`` of REST Trades takes."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
