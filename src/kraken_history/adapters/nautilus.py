"""Bars, trades and instruments of nautilus_trader, from the records of a provider. No digit is rounded."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from kraken_history.adapters.packages import imported
from kraken_history.errors import UsageError
from kraken_history.intervals import width_of
from kraken_history.records import HistoricalCandle, HistoricalTrade, unix_ns

VENUE = "KRAKEN"
VOLUME_DECIMALS = 8
"""Decimals of volumes: ``lot_decimals`` of Kraken's pairs."""

_STEPS = (("WEEK", 7 * 24 * 60), ("DAY", 24 * 60), ("HOUR", 60), ("MINUTE", 1))


def nautilus_instrument(symbol: str, price_decimals: int, volume_decimals: int = VOLUME_DECIMALS) -> Any:
    """The ``CurrencyPair`` of a symbol, ``BTC/USDT.KRAKEN``. It has no fees, margins or limits of orders.

    Args:
        price_decimals: Decimals of its prices; the history does not know Kraken's tick size.

    Raises:
        MissingPackage: nautilus_trader is not installed.
    """
    model = imported("nautilus_trader.model")
    base, quote = symbol.split("/")
    return imported("nautilus_trader.model.instruments").CurrencyPair(
        instrument_id=model.InstrumentId(model.Symbol(symbol), model.Venue(VENUE)),
        raw_symbol=model.Symbol(symbol),
        base_currency=_currency(base),
        quote_currency=_currency(quote),
        price_precision=price_decimals,
        size_precision=volume_decimals,
        price_increment=model.Price.from_str(_unit(price_decimals)),
        size_increment=model.Quantity.from_str(_unit(volume_decimals)),
        ts_event=0,
        ts_init=0,
    )


def nautilus_bars(candles: Iterable[HistoricalCandle], instrument: Any) -> list[Any]:
    """Candles as bars, ``BTC/USDT.KRAKEN-1-MINUTE-LAST-EXTERNAL``.

    A bar's ``ts_event`` and ``ts_init`` are its close: nautilus_trader shows it to a strategy at that time.

    Raises:
        UsageError: A candle is made up, is of another symbol, or has more decimals than the instrument.
        MissingPackage: nautilus_trader is not installed.
    """
    model, bars = imported("nautilus_trader.model"), []
    kinds: dict[int, Any] = {}
    for candle in candles:
        if candle.is_made_up:
            raise UsageError("expected candles that are not padded: a bar cannot say that it is made up")
        _check(candle.symbol, instrument)
        closed_ns = unix_ns(candle.timestamp + width_of(candle.interval_minutes))
        prices = (_price(model, instrument, each) for each in (candle.open, candle.high, candle.low, candle.close))
        volume = _quantity(model, instrument, candle.volume)
        interval = candle.interval_minutes
        if interval not in kinds:
            kinds[interval] = model.BarType.from_str(bar_type(instrument, interval))
        bars.append(model.Bar(kinds[interval], *prices, volume, closed_ns, closed_ns))
    return bars


def nautilus_trades(trades: Iterable[HistoricalTrade], instrument: Any) -> list[Any]:
    """Trades as ``TradeTick``, with Kraken's ids.

    Raises:
        UsageError: A trade is of another symbol, or has more decimals than the instrument.
        MissingPackage: nautilus_trader is not installed.
    """
    model, enums = imported("nautilus_trader.model"), imported("nautilus_trader.model.enums")
    sides = {"buy": enums.AggressorSide.BUYER, "sell": enums.AggressorSide.SELLER}
    ticks = []
    for trade in trades:
        _check(trade.symbol, instrument)
        time_ns = unix_ns(trade.timestamp)
        price, volume = _price(model, instrument, trade.price), _quantity(model, instrument, trade.volume)
        id_ = model.TradeId(str(trade.id))
        ticks.append(model.TradeTick(instrument.id, price, volume, sides[trade.side], id_, time_ns, time_ns))
    return ticks


def bar_type(instrument: Any, interval: int) -> str:
    """The name of the type of bars of an interval in minutes, in the longest unit that divides it."""
    unit, minutes = next((unit, minutes) for unit, minutes in _STEPS if not interval % minutes)
    return f"{instrument.id}-{interval // minutes}-{unit}-LAST-EXTERNAL"


def decimals_of(*numbers: Decimal) -> int:
    """The most decimals that one of these numbers has, zeros at the end not counted."""
    return max(max(-int(number.normalize().as_tuple().exponent), 0) for number in numbers)


def _currency(code: str) -> Any:
    model, enums = imported("nautilus_trader.model"), imported("nautilus_trader.model.enums")
    known = model.Currency.from_str(code, strict=True)  # None if nautilus_trader does not know it
    return known or model.Currency(code, VOLUME_DECIMALS, 0, code, enums.CurrencyType.CRYPTO)


def _unit(decimals: int) -> str:
    return f"{Decimal(1).scaleb(-decimals):f}"


def _check(symbol: str, instrument: Any) -> None:
    if symbol != instrument.id.symbol.value:
        raise UsageError(f"expected records of {instrument.id.symbol.value}, got one of {symbol}")


def _price(model: Any, instrument: Any, number: Decimal) -> Any:
    return model.Price.from_str(_fixed(number, instrument.price_precision, "price"))


def _quantity(model: Any, instrument: Any, number: Decimal) -> Any:
    return model.Quantity.from_str(_fixed(number, instrument.size_precision, "volume"))


def _fixed(number: Decimal, decimals: int, name: str) -> str:
    """The number with exactly as many decimals."""
    if decimals_of(number) > decimals:
        raise UsageError(
            f"expected a {name} of at most {decimals} decimals, got {number}: give the instrument {decimals_of(number)}"
        )
    return f"{number:.{decimals}f}"
