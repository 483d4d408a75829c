"""Trade on paper with live candles: look after the database, fill gaps, warm up, follow, and save the result.

    python examples/paper_tester.py --symbols BTC/USDT,ETH/USDT

The candles come from the database that ``kraken-history up`` fills. Any number of testers may share it; each keeps
its own place. Where the database is away at the end, and stays away, the result goes into a file.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import msgspec

from console import Parser, count, number, run, say, say_result, seconds, signed, symbol_name, warn_of, web_address
from kraken_history.backtests import BacktestRun
from kraken_history.errors import CoverageError, HistoryError, ServiceUnavailable, UnknownSymbol
from kraken_history.kraken.pairs import symbol_without_kraken
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle
from strategy import NAME, Rules, Trader, close_time, run_of

_SAVE_PAUSE_S = 2.0


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
        self._session = str(uuid4())
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """The whole sequence, from the first look at the database to the saved result."""
        await self._check_health()
        await self._fill_gaps()
        names = [await self._symbol_of(name) for name in self._traders]
        self._traders = {symbol: Trader(symbol, self._rules) for symbol in names}
        for symbol in self._traders:
            await self._warm_up(symbol)
        say(f"following {', '.join(self._traders)}, candles of {self._interval} min; Ctrl-C ends it")
        try:
            await self._follow_until_stopped()
        finally:
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
            from kraken_history.fetching.gaps import run_gap_filler
            from kraken_history.runtime import telemetry
        except ModuleNotFoundError as error:
            say(f"gap filling: skipped, {error.name} is not installed: pip install '.[services]' brings it")
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

    async def _symbol_of(self, name: str) -> str:
        try:
            return await self._provider.find_symbol(name)
        except UnknownSymbol:
            symbol = symbol_without_kraken(name)
            if symbol is None:
                raise
            return symbol  # it may come yet

    async def _warm_up(self, symbol: str) -> None:
        candles: list[HistoricalCandle] = []
        with suppress(UnknownSymbol):  # it may come yet
            candles = await self._provider.get_warmup_data(
                symbol,
                self._interval,
                self._rules.slow,
                grace_s=self._arguments.grace,
                patience_s=self._arguments.patience,
                gaps=self._arguments.gaps,
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
        result = run_of(traders, self._rules, self._interval, self._first, self._last)
        result = msgspec.structs.replace(result, parameters={**result.parameters, "session": self._session})
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, self._hurry.set)
        try:
            async with asyncio.timeout(self._arguments.save_patience):
                run_id = await self._save_patiently(result)
        except (HistoryError, asyncpg.PostgresError, TimeoutError) as error:
            raise HistoryError(f"{str(error) or 'no answer'}: the result is in {_write(result)} instead") from error
        say(f"saved as run {run_id}")
        await self._warn_of_gaps(result)

    async def _warn_of_gaps(self, result: BacktestRun) -> None:
        """Following waits for missing trades only so long: say if some never came."""
        for symbol in result.symbols:
            try:
                with suppress(ServiceUnavailable):
                    await self._provider.require_complete(symbol, result.start_time, result.end_time)
            except CoverageError as error:
                warn_of(error)

    async def _save_patiently(self, result: BacktestRun) -> UUID:
        """Try until the database is back, or somebody wants an end."""
        try:
            return await self._provider.save_run(result)
        except ServiceUnavailable as error:
            say(f"{error}; until then the result waits here")
            failure = error
        while not self._hurry.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _SAVE_PAUSE_S)
            try:
                return await self._saved_before() or await self._provider.save_run(result)
            except ServiceUnavailable as error:
                failure = error
        raise failure

    async def _saved_before(self) -> UUID | None:
        """The run, if an attempt did save it and only the answer was lost."""
        for saved in await self._provider.list_runs(NAME, limit=1_000):
            if saved.parameters.get("session") == self._session:
                return saved.id
        return None


def _write(result: BacktestRun) -> Path:
    path = Path(f"paper-test-{result.parameters['session']}.json").resolve()
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    except OSError as error:
        raise HistoryError(f"{path} cannot be written either: {error.strerror}") from error
    return path


async def paper_test(arguments: argparse.Namespace, rules: Rules) -> None:
    """Run a paper tester until it is stopped."""
    async with HistoricalDataProvider(arguments.database_url, pool_min_size=1, pool_max_size=2) as provider:
        await PaperTester(provider, arguments, rules).run()


def main(words: Sequence[str]) -> int:
    """The example; returns its exit code."""
    parser = Parser("Trade a moving average cross on paper, with live candles.")
    parser.add_argument("--symbols", type=_symbols, default=["BTC/USDT"], help="comma between (BTC/USDT)")
    parser.add_argument("--candles", type=count, metavar="N", help="stop after so many")
    parser.add_argument("--seconds", type=seconds, metavar="S", help="stop after so long")
    parser.add_argument(
        "--grace", type=seconds, default=45, metavar="S", help="wait so long for trades on their way (%(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=seconds,
        default=120,
        metavar="S",
        help="wait so long for trades that are missing (%(default)s)",
    )
    parser.add_argument(
        "--save-patience",
        type=seconds,
        default=60,
        metavar="S",
        help="wait so long for a database that is away at the end; then write a file (%(default)s)",
    )
    parser.add_argument("--no-gap-fill", action="store_true", help="take the history as it is; all a reader may do")
    parser.add_argument("--gap-fill-days", type=count, default=1, help="how far back gaps are filled (%(default)s)")
    parser.add_argument(
        "--gaps",
        choices=("raise", "ignore"),
        default="raise",
        help="where the history to warm up with has gaps: refuse, or use what is stored (%(default)s)",
    )
    parser.add_argument(
        "--kraken-rest-url",
        type=web_address,
        default=os.environ.get("KRAKEN_REST_URL") or "https://api.kraken.com",
        help="where from; default: KRAKEN_REST_URL, else Kraken (%(default)s)",
    )
    return run(parser, paper_test, words)


def _symbols(text: str) -> list[str]:
    return list(dict.fromkeys(map(symbol_name, text.split(","))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
