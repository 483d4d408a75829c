"""Trade on paper with live candles: look after the database, fill gaps, warm up, follow, and save the result.

    python examples/paper_tester.py --symbols BTC/USDT,ETH/USDT

The candles come from the database that ``kraken-history up`` fills. Any number of testers may share it; each keeps
its own place.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from console import Parser, number, run, say, say_result, signed
from kraken_history.errors import ServiceUnavailable, UnknownSymbol
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle
from strategy import Rules, Trader, close_time, run_of


class PaperTester:
    """A trader for each symbol, fed by one database."""

    def __init__(self, provider: HistoricalDataProvider, arguments: argparse.Namespace, rules: Rules) -> None:
        self._provider = provider
        self._arguments = arguments
        self._rules = rules
        self._interval: int = arguments.interval
        self._traders = {symbol: Trader(symbol, rules) for symbol in arguments.symbols}
        self._next_open: dict[str, datetime] = {}
        self._first: datetime | None = None
        self._last: datetime | None = None

    async def run(self) -> None:
        """The whole sequence, from the first look at the database to the saved result."""
        await self._check_health()
        await self._fill_gaps()
        for symbol in self._traders:
            await self._warm_up(symbol)
        say(f"following {', '.join(self._traders)}, candles of {self._interval} min; Ctrl-C ends it")
        await self._follow_until_stopped()
        await self._save()

    async def _check_health(self) -> None:
        health = await self._provider.health_check()
        if not health.is_healthy:
            raise ServiceUnavailable(health.reason)
        newest = health.newest_timestamp
        say(f"{health.server}, newest trade {f'{newest:%Y-%m-%d %H:%M:%S}Z' if newest else 'none yet'}")

    async def _fill_gaps(self) -> None:
        if self._arguments.no_gap_fill:
            say("gap filling: skipped, as asked")
            return
        try:
            from kraken_history import telemetry
            from kraken_history.gaps import run_gap_filler
        except ModuleNotFoundError as error:
            say(f"gap filling: skipped, {error.name} is not installed: pip install 'kraken-history[services]'")
            return
        telemetry.configure_logging("error", as_json=False)
        summary = await run_gap_filler(
            self._arguments.database_url,
            symbols=list(self._traders),
            history_days=self._arguments.gap_fill_days,
            kraken_rest_url=self._arguments.kraken_rest_url,
        )
        say(
            f"gap filling: {summary['gaps_filled']} of {summary['gaps_detected']} gaps,"
            f" {summary['trades_processed']} trades, {summary['candles_inserted']} candles"
        )
        for complaint in summary["errors"]:
            say(f"gap filling: {complaint}")

    async def _warm_up(self, symbol: str) -> None:
        candles: list[HistoricalCandle] = []
        with suppress(UnknownSymbol):  # it may come yet
            candles = await self._provider.get_warmup_data(
                symbol,
                self._interval,
                self._rules.slow,
                grace_s=self._arguments.grace,
                patience_s=self._arguments.patience,
            )
        self._traders[symbol].warm_up(candles)
        if candles:
            self._next_open[symbol] = close_time(candles[-1])
        until = f" up to {close_time(candles[-1]):%Y-%m-%d %H:%M}Z" if candles else ""
        say(f"warm-up: {symbol}, {len(candles)} of {self._rules.slow} candles{until}")

    async def _follow_until_stopped(self) -> None:
        following = asyncio.create_task(self._follow())
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, following.cancel)
        done, _ = await asyncio.wait([following], timeout=self._arguments.seconds)
        following.cancel()
        for task in done or (await asyncio.wait([following]))[0]:
            if not task.cancelled():
                task.result()

    async def _follow(self) -> None:
        left = self._arguments.candles
        candles = self._provider.follow_candles(
            list(self._traders),
            self._interval,
            start=self._next_open,
            grace_s=self._arguments.grace,
            patience_s=self._arguments.patience,
        )
        async for candle in candles:
            self._trade(candle)
            left = None if left is None else left - 1
            if left == 0:
                return

    def _trade(self, candle: HistoricalCandle) -> None:
        trader = self._traders[candle.symbol]
        fill = trader.on_candle(candle)
        self._first = self._first or candle.timestamp
        self._last = close_time(candle)
        say(
            f"{candle.timestamp:%Y-%m-%d %H:%M}Z {candle.symbol} close {number(candle.close)}"
            f" {fill.side.upper() if fill else '-'} profit {signed(trader.equity)}"
        )

    async def _save(self) -> None:
        if self._first is None or self._last is None:
            say("no candle closed: there is nothing to save")
            return
        traders = list(self._traders.values())
        for trader in traders:
            say_result(trader)
        run_id = await self._provider.save_run(run_of(traders, self._rules, self._interval, self._first, self._last))
        say(f"saved as run {run_id}")


async def paper_test(arguments: argparse.Namespace, rules: Rules) -> None:
    """Run a paper tester until it is stopped."""
    provider = HistoricalDataProvider(arguments.database_url, pool_min_size=1, pool_max_size=2)
    try:
        await PaperTester(provider, arguments, rules).run()
    finally:
        await provider.close()


def main(words: Sequence[str]) -> int:
    """The example; returns its exit code."""
    parser = Parser("Trade a moving average cross on paper, with live candles.")
    parser.add_argument("--symbols", type=_symbols, default=["BTC/USDT"], help="comma between (BTC/USDT)")
    parser.add_argument("--candles", type=_count, metavar="N", help="stop after so many")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long")
    parser.add_argument(
        "--grace", type=float, default=10, metavar="S", help="wait so long for trades on their way (%(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=120,
        metavar="S",
        help="wait so long for trades that are missing (%(default)s)",
    )
    parser.add_argument("--no-gap-fill", action="store_true", help="take the history as it is")
    parser.add_argument("--gap-fill-days", type=_count, default=1, help="how far back gaps are filled (%(default)s)")
    parser.add_argument("--kraken-rest-url", default="https://api.kraken.com", help="where from (%(default)s)")
    return run(parser, paper_test, words)


def _symbols(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip().upper() for part in text.split(",") if part.strip()))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
