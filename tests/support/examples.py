"""Trades and candles to test with: written by hand, and as strategies for hypothesis."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

from hypothesis import strategies as st

from kraken_history.records import CandleSource, HistoricalCandle, HistoricalTrade, Side

NOON = datetime(2025, 11, 10, 12, tzinfo=UTC)
SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/BTC")


def make_trade(
    id_: int,
    at: datetime = NOON,
    price: str = "100.0",
    volume: str = "1.00000000",
    *,
    symbol: str = "BTC/USDT",
    side: Side = "buy",
    order_type: str = "limit",
    misc: str = "",
) -> HistoricalTrade:
    """A trade; a test sets only the fields that matter to it."""
    return HistoricalTrade(id_, symbol, at, Decimal(price), Decimal(volume), side, order_type, misc)


def make_candle(
    at: datetime = NOON,
    *,
    trade_count: int = 3,
    symbol: str = "BTC/USDT",
    close: str = "101.5",
    volume: str = "2.5",
    source: CandleSource = "ohlc",
) -> HistoricalCandle:
    """One of the exchange's own candles of a minute, or one of another source."""
    price, amount = Decimal(close), Decimal(volume)
    return HistoricalCandle(
        symbol, at, 1, Decimal("100.0"), Decimal("102.0"), Decimal("99.0"), price, amount, amount * price, trade_count,
        price, source,
    )  # fmt: skip


def digits(record: HistoricalTrade | HistoricalCandle) -> tuple[str, ...]:
    """The record's fields as text, for comparing Decimals to the last zero: ``1.0 == 1.00`` but not here."""
    return tuple(str(getattr(record, field)) for field in record.__struct_fields__)


def decimals(*, most: int = 10**18) -> st.SearchStrategy[Decimal]:
    """Positive numbers with up to 18 digits and 12 decimals, trailing zeros included."""
    return st.builds(lambda n, places: Decimal(n).scaleb(-places), st.integers(1, most), st.integers(0, 12))


def moments(
    start: datetime = datetime(2013, 10, 6, tzinfo=UTC), span: timedelta = timedelta(days=6000)
) -> st.SearchStrategy[datetime]:
    """Times in UTC, to the microsecond."""
    return st.integers(0, span // timedelta(microseconds=1) - 1).map(lambda n: start + timedelta(microseconds=n))


def trades(
    *,
    at: st.SearchStrategy[datetime] | None = None,
    ids: st.SearchStrategy[int] | None = None,
    symbols: Sequence[str] = SYMBOLS,
) -> st.SearchStrategy[HistoricalTrade]:
    """Trades as Kraken could send them."""
    sides: st.SearchStrategy[Side] = st.sampled_from(("buy", "sell"))
    return st.builds(
        HistoricalTrade,
        st.integers(1, 2**63 - 2) if ids is None else ids,
        st.sampled_from(symbols),
        moments() if at is None else at,
        decimals(),
        decimals(),
        sides,
        st.sampled_from(("market", "limit", "stop-loss")),
        st.sampled_from(("", "x", "a,b")),
    )


@st.composite
def candles(draw: st.DrawFn) -> HistoricalCandle:
    """One-minute candles as Kraken could send them."""
    low, middle, other, high = sorted(draw(st.lists(decimals(), min_size=4, max_size=4)))
    return HistoricalCandle(
        draw(st.sampled_from(SYMBOLS)),
        draw(moments()).replace(second=0, microsecond=0),
        1,
        middle,
        high,
        low,
        other,
        draw(decimals()),
        draw(decimals()),
        draw(st.integers(0, 2**31 - 1)),
        draw(decimals()),
        draw(st.sampled_from(get_args(CandleSource))),
    )


def distinct_trades(*, span: timedelta, most: int = 40) -> st.SearchStrategy[list[HistoricalTrade]]:
    """Trades of a few minutes, each (symbol, id) once, in any order; times do not follow the ids."""
    return st.lists(
        trades(at=moments(NOON, span), ids=st.integers(1, 60), symbols=SYMBOLS[:2]),
        max_size=most,
        unique_by=lambda trade: (trade.symbol, trade.id),
    )


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ("NaN", "sNaN", "-Infinity", "1e999999", "1e-999999", "2026-03-04T05:06:07Z", "BTC/USD\n", "2e5")
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
