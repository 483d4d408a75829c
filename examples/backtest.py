"""Run the strategy over stored history, print what it came to, and save the run.

python examples/backtest.py --symbol BTC/USDT --interval 60 --from 2026-01-01 --to 2026-02-01

It refuses a range of which history is missing: a profit that is made across a hole is none. With --gaps ignore it goes
on and warns. The saved run carries the coverage that it was computed on, either way.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from console import Parser, days, moment, number, run, say, say_result, signed, symbol_name, warn_of
from kraken_history.errors import CoverageError, HistoryError, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE
from strategy import Rules, Trader, run_of


async def backtest(arguments: argparse.Namespace, rules: Rules) -> None:
    """Replay the candles as fast as they can be read."""
    async with HistoricalDataProvider(arguments.database_url) as provider:
        arguments.symbol = await provider.find_symbol(arguments.symbol)
        start, end = await _range(provider, arguments)
        if start >= end and None in (arguments.start, arguments.end):
            raise HistoryError(await _why_nothing(provider, arguments))
        end = await _complete_end(provider, arguments, start, end)
        trader = Trader(arguments.symbol, rules)
        say(
            f"{arguments.symbol}, candles of {arguments.interval} min"
            f" from {start:%Y-%m-%d %H:%M}Z to {end:%Y-%m-%d %H:%M}Z"
        )
        candles = provider.replay_candles(
            arguments.symbol, arguments.interval, start, end, speed=0, gaps=arguments.gaps
        )
        async for candle in candles:
            fill = trader.on_candle(candle)
            if fill is not None and arguments.verbose:
                say(
                    f"{fill.timestamp:%Y-%m-%d %H:%M}Z {fill.side.upper():4} at {number(fill.price)}"
                    f" profit {signed(trader.equity)}"
                )
        if not trader.candles:
            raise HistoryError(await _why_nothing(provider, arguments))
        say_result(trader)
        run_id = await provider.save_run(run_of([trader], rules, arguments.interval, start, end, arguments.gaps))
        say(f"saved as run {run_id}")


async def _range(provider: HistoricalDataProvider, arguments: argparse.Namespace) -> tuple[datetime, datetime]:
    """The requested range; without one, the stored range. It ends now at the latest: later candles are not closed.

    History begins and ends within a minute, so the first and the last stored minute are left out if they are not whole.
    """
    start, end = arguments.start, arguments.end
    if arguments.days is not None:
        if start is not None:
            raise UsageError("expected either --from or --days, got both: leave one of them out")
        start = (end or datetime.now(UTC)) - timedelta(days=arguments.days)
    if start is None or end is None:
        stored = await provider.get_data_range(arguments.symbol)
        oldest, newest = stored["oldest"], stored["newest"]
        if oldest is None or newest is None:
            raise UsageError(f"there are no candles of {arguments.symbol} yet")
        start = start or (oldest if await _is_whole(provider, arguments.symbol, oldest) else oldest + MINUTE)
        end = end or (newest + MINUTE if await _is_whole(provider, arguments.symbol, newest) else newest)
    return start, min(end, datetime.now(UTC))


async def _is_whole(provider: HistoricalDataProvider, symbol: str, minute: datetime) -> bool:
    return (await provider.get_coverage(symbol, minute, minute + MINUTE)).is_complete


async def _complete_end(
    provider: HistoricalDataProvider, arguments: argparse.Namespace, start: datetime, end: datetime
) -> datetime:
    """Where the complete part of the range ends: before the last moments, if it ends now."""
    try:
        return await provider.require_complete(arguments.symbol, start, end, arguments.interval)
    except CoverageError as error:
        if arguments.gaps == "raise":
            raise
        warn_of(error)
        return end


async def _why_nothing(provider: HistoricalDataProvider, arguments: argparse.Namespace) -> str:
    stored = await provider.get_data_range(arguments.symbol)
    if stored["oldest"] is None or stored["newest"] is None:
        return f"there are no candles of {arguments.symbol} yet: `kraken-history status` shows what is stored"
    return (
        f"no candle of {arguments.interval} min is closed in this range: nothing is saved; one-minute candles of"
        f" {arguments.symbol} are stored from {stored['oldest']:%Y-%m-%d %H:%M}Z to"
        f" {stored['newest'] + MINUTE:%Y-%m-%d %H:%M}Z: give another --from and --to, or a shorter --interval"
    )


def main(words: Sequence[str]) -> int:
    """The example; returns its exit code."""
    parser = Parser("Run a moving average cross over stored history.")
    parser.add_argument("--symbol", type=symbol_name, default="BTC/USDT", help="(%(default)s)")
    parser.add_argument("--from", dest="start", type=moment, metavar="TIME", help="default: all that is stored")
    parser.add_argument("--to", dest="end", type=moment, metavar="TIME", help="default: all that is stored")
    parser.add_argument("--days", type=days, help="instead of --from: this many days before --to, or before now")
    parser.add_argument(
        "--gaps",
        choices=("raise", "ignore", "pad"),
        default="raise",
        help="where history is missing: refuse, use what is stored, or make up flat candles (%(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="print each fill")
    return run(parser, backtest, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
