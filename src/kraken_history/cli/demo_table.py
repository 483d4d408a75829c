"""The live table of the demo, on standard error."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table

from kraken_history.cli.progress import Progress

_RATE_OVER_S = 3.0


class DemoTable:
    """The table is redrawn on each call of :meth:`show`. Without a terminal, only the captions are printed."""

    def __init__(self, symbols: Sequence[str], *, is_shown: bool) -> None:
        self._symbols = symbols
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._has_table(is_shown) else None
        self._says_once = is_shown and self._live is None
        self._caption = ""
        self._progress: Mapping[str, Progress] = {}
        self._seen: deque[tuple[float, Mapping[str, Progress]]] = deque()

    def _has_table(self, is_shown: bool) -> bool:
        return is_shown and self._console.is_terminal

    def __enter__(self) -> "DemoTable":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._caption = ""
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def say(self, caption: str) -> None:
        """Set the caption: the current step and, after a comma, its progress."""
        step, *_ = caption.split(", ")
        if self._says_once and not self._caption.startswith(step):
            self._console.print(step, highlight=False)
        self._caption = caption
        self._redraw()

    def follow(self, symbols: Sequence[str]) -> None:
        """Show these symbols from now on."""
        self._symbols = symbols

    def show(self, progress: Mapping[str, Progress]) -> None:
        """Show the progress of each symbol."""
        now_s = time.monotonic()
        self._seen.append((now_s, progress))
        while self._seen[0][0] < now_s - _RATE_OVER_S:
            self._seen.popleft()
        self._progress = progress
        self._redraw()

    def _redraw(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(caption=self._caption or None, caption_justify="left")
        table.add_column("symbol")
        for title in ("trades", "trades/s", "lag", "newest candle", "missing ids"):
            table.add_column(title, justify="right")
        now = datetime.now(UTC)
        for symbol in self._symbols:
            of_symbol = self._progress.get(symbol)
            if of_symbol is None:
                table.add_row(symbol, "0", "-", "-", "-", "-")
                continue
            lag = "-" if of_symbol.newest is None else f"{(now - of_symbol.newest).total_seconds():.2f} s"
            minute = "-" if of_symbol.newest_candle is None else f"{of_symbol.newest_candle:%H:%M}Z"
            rate = f"{self._rate(symbol):.1f}"
            table.add_row(symbol, f"{of_symbol.trades:,}", rate, lag, minute, f"{of_symbol.missing:,}")
        return table

    def _rate(self, symbol: str) -> float:
        first_s, first = self._seen[0]
        last_s, last = self._seen[-1]
        if last_s <= first_s:
            return 0.0
        before = first[symbol].trades if symbol in first else 0
        return (last[symbol].trades - before) / (last_s - first_s)
