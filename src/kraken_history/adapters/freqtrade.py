"""Files of freqtrade's data folder: Feather, one per pair and time frame, and one of a pair's trades.

Source: freqtrade's own handler of Feather files. A candle has ``date`` (its open, in milliseconds, UTC) and floats. A
trade has ``timestamp`` (unix milliseconds), ``id``, ``type``, ``side``, ``price``, ``amount`` and ``cost``. When
freqtrade loads trades, it drops all but one of those that share time and id. Its importer of Kraken's downloads
knows no ids, and so loses trades of the same second. Here each trade has its id.
"""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow

    from kraken_history.records import HistoricalTrade

_UNITS = (("w", 7 * 24 * 60), ("d", 24 * 60), ("h", 60), ("m", 1))
_REPLACED = "/ .@$+:"


def timeframe(interval: int) -> str:
    """freqtrade's name of an interval in minutes: ``5m``, ``1h``, ``1d``, ``1w``."""
    return next(f"{interval // minutes}{unit}" for unit, minutes in _UNITS if not interval % minutes)


def candles_name(symbol: str, interval: int) -> Path:
    """``BTC_USDT-5m.feather``."""
    return Path(f"{_pair(symbol)}-{timeframe(interval)}.feather")


def trades_name(symbol: str) -> Path:
    """``BTC_USDT-trades.feather``."""
    return Path(f"{_pair(symbol)}-trades.feather")


def _pair(symbol: str) -> str:
    return symbol.translate(dict.fromkeys(map(ord, _REPLACED), "_"))


def candles_schema() -> "pyarrow.Schema":
    """The columns of a file of candles."""
    import pyarrow

    numbers = ("open", "high", "low", "close", "volume")
    types: dict[str, pyarrow.DataType] = dict.fromkeys(numbers, pyarrow.float64())
    return pyarrow.schema({"date": pyarrow.timestamp("ms", "UTC"), **types})


def candles_table(candles: "pyarrow.Table") -> "pyarrow.Table":
    """Candles as ``get_candles_arrow(…, numbers="float")`` reads them, as freqtrade stores them."""
    schema = candles_schema()
    return candles.rename_columns(
        ["date" if name == "timestamp" else name for name in candles.column_names]
    ).select(schema.names).cast(schema)  # fmt: skip


def trades_schema() -> "pyarrow.Schema":
    """The columns of a file of trades."""
    import pyarrow

    texts: dict[str, pyarrow.DataType] = dict.fromkeys(("id", "type", "side"), pyarrow.string())
    numbers: dict[str, pyarrow.DataType] = dict.fromkeys(("price", "amount", "cost"), pyarrow.float64())
    return pyarrow.schema({"timestamp": pyarrow.int64(), **texts, **numbers})


def trades_batch(trades: "Sequence[HistoricalTrade]") -> "pyarrow.RecordBatch":
    """Trades as freqtrade stores them; a time is cut to milliseconds."""
    import pyarrow

    schema = trades_schema()
    columns: dict[str, list[Any]] = {
        "timestamp": [_milliseconds(trade) for trade in trades],
        "id": [str(trade.id) for trade in trades],
        "type": [trade.order_type for trade in trades],
        "side": [trade.side for trade in trades],
        "price": [float(trade.price) for trade in trades],
        "amount": [float(trade.volume) for trade in trades],
        "cost": [float(Decimal(trade.price) * trade.volume) for trade in trades],
    }
    return pyarrow.RecordBatch.from_arrays(
        [pyarrow.array(columns[field.name], field.type) for field in schema], schema=schema
    )


def _milliseconds(trade: "HistoricalTrade") -> int:
    from kraken_history.records import unix_ns

    return unix_ns(trade.timestamp) // 1_000_000
