"""Frames of candles for backtesting.py, vectorbt and backtrader."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kraken_history.adapters.packages import imported
from kraken_history.errors import UsageError
from kraken_history.intervals import width_of

if TYPE_CHECKING:
    import pandas
    import polars

    Candles = pandas.DataFrame | polars.DataFrame

_MADE_UP = "is_made_up"
_COLUMNS = {"open": "Open", "high": "High", "low": "Low", "close": "Close", "volume": "Volume"}
_READ = 'history.get_candles_frame(symbol, interval, start, end, as_="pandas")'


def backtesting_frame(candles: "Candles") -> "pandas.DataFrame":
    """The frame that ``backtesting.Backtest`` takes: Open, High, Low, Close and Volume as float64, by open time in UTC.

    Padded candles keep their column ``is_made_up``, which a strategy reads as ``self.data.is_made_up``.

    Args:
        candles: A frame of ``get_candles_frame``, of pandas or Polars.

    Raises:
        UsageError: It is not such a frame, or its candles are of several symbols or intervals.
        MissingPackage: pandas is not installed.
    """
    frame = _one_series(candles)
    kept = [*_COLUMNS, *([_MADE_UP] if _MADE_UP in frame else [])]
    renamed: pandas.DataFrame = frame[kept].rename(columns=_COLUMNS)
    return renamed


def vectorbt_frame(candles: "Candles") -> "pandas.DataFrame":
    """The frame that vectorbt's ``.vbt.ohlcv`` and ``vbt.Data.from_data`` take; columns as :func:`backtesting_frame`.

    Its index has the candles' distance as its ``freq`` if there is one for every bucket, so that vectorbt knows the
    length of a bar. Otherwise the index has none: pass ``freq`` to vectorbt, which would not notice a missing row.

    Args, Raises: As of :func:`backtesting_frame`.
    """
    library, width = imported("pandas"), _width(_one_series(candles))
    frame = backtesting_frame(candles)
    if width is not None and len(frame) > 1 and frame.index[-1] - frame.index[0] == (len(frame) - 1) * width:
        frame.index = library.DatetimeIndex(frame.index, freq=library.Timedelta(width))
    return frame


def backtrader_feed(candles: "Candles", **parameters: Any) -> Any:
    """A feed for ``cerebro.adddata``: a ``backtrader.feeds.PandasData`` whose bars are stamped with their close.

    backtrader shows a bar at its time stamp. Stamped with its open, an hour would be seen before its minutes, that is,
    before it has happened. Therefore a bar is stamped here when it is closed, and feeds of several intervals agree.

    The feed's time frame is minutes, its compression the interval. Padded candles have the line ``is_made_up``; of
    other candles it is not a number.

    Args:
        candles: As for :func:`backtesting_frame`.
        parameters: Further parameters of the feed, such as ``name``.

    Raises:
        UsageError: As :func:`backtesting_frame`, or there is no candle.
        MissingPackage: backtrader or pandas is not installed.
    """
    backtrader = imported("backtrader")
    series = _one_series(candles)
    width = _width(series)
    if width is None:
        raise UsageError("expected at least one candle for backtrader, got an empty frame")
    frame = series[[*_COLUMNS, *([_MADE_UP] if _MADE_UP in series else [])]]
    frame.index = (frame.index + width).tz_localize(None)
    more = {"lines": (_MADE_UP,), "params": ((_MADE_UP, -1),)}  # -1: the column of this name, if there is one
    kind: Any = type("KrakenCandles", (backtrader.feeds.PandasData,), more)
    own = {"timeframe": backtrader.TimeFrame.Minutes, "compression": width // timedelta(minutes=1)}
    return kind(dataname=frame, **(own | parameters))


def _one_series(candles: "Candles") -> Any:
    """The candles as a frame of pandas with their open time as the index, checked."""
    library = imported("pandas")
    given: Any = candles
    frame = given.to_pandas() if hasattr(given, "to_pandas") else given
    if not isinstance(frame, library.DataFrame):
        raise UsageError(f"expected a frame of candles, got {type(candles).__name__}: read one with {_READ}")
    if "timestamp" in frame:
        frame = frame.set_index("timestamp")
    missing = [name for name in (*_COLUMNS, "symbol", "interval_minutes") if name not in frame]
    if missing or not isinstance(frame.index, library.DatetimeIndex):
        lacks = ", ".join(missing) or "the open times"
        raise UsageError(f"expected a frame of candles, got one without {lacks}: read one with {_READ}")
    for name in ("symbol", "interval_minutes"):
        if frame[name].nunique() > 1:
            found = ", ".join(map(str, frame[name].unique()[:3]))
            raise UsageError(
                f"expected candles of one {name.removesuffix('_minutes')}, got {found}: pass one at a time"
            )
    return frame


def _width(frame: Any) -> timedelta | None:
    """The length of the candles; None without any."""
    return width_of(int(frame["interval_minutes"].iloc[0])) if len(frame) else None
