"""The table of candles. It fits into 80 columns with prices of up to nine characters."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kraken_history.intervals import width_of
from kraken_history.records import HistoricalCandle

_WIDE = 110
"""Columns of a terminal from which on there is room for the vwap, which has up to ten decimals."""

_WIDTH_IN_A_PIPE = 250
_RUNNING = "* still running: its values change until it ends"
_SOURCES = "o: source ohlc, the exchange's; c: source csv, a download; others: trades"
_MADE_UP = "~ made up at the last close: no candle is stored"


def print_candles(candles: Sequence[HistoricalCandle], *, now: datetime | None = None) -> None:
    """Print candles of one symbol and interval in the terminal's width, and explain the marks.

    Args:
        now: The present; a candle that ends later is marked as running.
    """
    if not candles:
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_IN_A_PIPE)
    now = now or datetime.now(UTC)
    console.print(table_of_candles(candles, console.width, now))
    if len(_sources(candles)) > 1 and console.width < _WIDE:
        sys.stdout.write(f"{_SOURCES}\n")
    if _is_running(candles[-1], now):
        sys.stdout.write(f"{_RUNNING}\n")
    if any(candle.is_made_up for candle in candles):
        sys.stdout.write(f"{_MADE_UP}\n")


def table_of_candles(candles: Sequence[HistoricalCandle], width: int, now: datetime) -> Table:
    """The table. What is the same for all candles is in its title."""
    first, sources, is_wide = candles[0], _sources(candles), width >= _WIDE
    title = f"{first.symbol}, {first.interval_minutes} min"
    title += f", source {next(iter(sources))}" if len(sources) == 1 else ""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    columns = ["open", "high", "low", "close", "volume", *(["vwap"] if is_wide else []), "trades"]
    table.add_column("time (UTC)", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    if len(sources) > 1 and is_wide:
        table.add_column("source", overflow="fold")
    for candle in candles:
        numbers = [candle.trade_count if name == "trades" else getattr(candle, name) for name in columns]
        table.add_row(
            _time(candle) + _mark(candle, now, with_source=len(sources) > 1 and not is_wide),
            *map(_text, numbers),
            *([candle.source] if len(sources) > 1 and is_wide else []),
        )
    return table


def _time(candle: HistoricalCandle) -> str:
    is_day = width_of(candle.interval_minutes) % timedelta(days=1) == timedelta()
    return f"{candle.timestamp:%Y-%m-%d}" if is_day else f"{candle.timestamp:%Y-%m-%d %H:%M}"


def _sources(candles: Sequence[HistoricalCandle]) -> set[str]:
    return {candle.source for candle in candles if not candle.is_made_up}


def _mark(candle: HistoricalCandle, now: datetime, *, with_source: bool) -> str:
    if candle.is_made_up:
        return "~"
    source = candle.source[0] if with_source and candle.source != "trades" else ""
    return f" {source}" * bool(source) + "*" * _is_running(candle, now)


def _is_running(candle: HistoricalCandle, now: datetime) -> bool:
    return candle.timestamp + width_of(candle.interval_minutes) > now


def _text(value: Decimal | int) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else f"{value:,}"
