"""Run the strategy over stored history, print what it came to, and save the run.

python examples/backtest.py --symbol BTC/USDT --interval 60 --from 2026-01-01 --to 2026-02-01
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from console import Parser, moment, number, run, say, say_result, signed, symbol_name
from kraken_history.errors import HistoryError, UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE
from strategy import Rules, Trader, run_of


async def backtest(arguments: argparse.Namespace, rules: Rules) -> None:
    """Replay the candles as fast as they can be read."""
    async with HistoricalDataProvider(arguments.database_url) as provider:
        arguments.symbol = await provider.find_symbol(arguments.symbol)
        start, end = await _range(provider, arguments)
        trader = Trader(arguments.symbol, rules)
        say(
            f"{arguments.symbol}, candles of {arguments.interval} min"
            f" from {start:%Y-%m-%d %H:%M}Z to {end:%Y-%m-%d %H:%M}Z"
        )
        async for candle in provider.replay_candles(arguments.symbol, arguments.interval, start, end, speed=0):
            fill = trader.on_candle(candle)
            if fill is not None and arguments.verbose:
                say(
                    f"{fill.timestamp:%Y-%m-%d %H:%M}Z {fill.side.upper():4} at {number(fill.price)}"
                    f" profit {signed(trader.equity)}"
                )
        if not trader.candles:
            raise HistoryError(await _why_nothing(provider, arguments))
        say_result(trader)
        run_id = await provider.save_run(run_of([trader], rules, arguments.interval, start, end))
        say(f"saved as run {run_id}")


async def _range(provider: HistoricalDataProvider, arguments: argparse.Namespace) -> tuple[datetime, datetime]:
    """The requested range; without one, the stored range. It ends now at the latest: later candles are not closed."""
    start, end = arguments.start, arguments.end
    if start is None or end is None:
        stored = await provider.get_data_range(arguments.symbol)
        if stored["oldest"] is None or stored["newest"] is None:
            raise UsageError(f"there are no candles of {arguments.symbol} yet")
        start, end = start or stored["oldest"], end or stored["newest"] + MINUTE
    return start, min(end, datetime.now(UTC))


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
    parser.add_argument("--verbose", action="store_true", help="print each fill")
    return run(parser, backtest, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
