"""``fill-gaps``: find missing data, and fetch it here or request it from the worker."""

import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import structlog
import typer
from redis.asyncio import Redis

from kraken_history.cli import servers as server_choice
from kraken_history.cli.redis_away import connect_patiently
from kraken_history.cli.worker_notice import worker_notice
from kraken_history.completeness.gap_length import LONGEST_MIN_GAP_MINUTES
from kraken_history.errors import InvalidNumber, UnknownSymbol
from kraken_history.fetching.gaps import GapSummary, run_gap_filler
from kraken_history.fetching.queue import JobQueue, queue_on
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import RateLimiter
from kraken_history.kraken.pairs import checked_name
from kraken_history.kraken.resolver import Resolver
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import Settings, load_settings


def run_command(symbol: str | None, min_gap_minutes: float, *, wait: bool, as_json: bool) -> None:
    """Check the options, fill the gaps, and exit with the code."""
    if not 0 <= min_gap_minutes <= LONGEST_MIN_GAP_MINUTES:
        raise InvalidNumber("--min-gap-minutes", min_gap_minutes, f"a number from 0 to {LONGEST_MIN_GAP_MINUTES}")
    if symbol is not None:
        checked_name(symbol)
    raise typer.Exit(
        run_fill_gaps(load_settings(), symbol, min_gap_minutes=min_gap_minutes, waits=wait, as_json=as_json)
    )


def run_fill_gaps(settings: Settings, symbol: str | None, *, min_gap_minutes: float, waits: bool, as_json: bool) -> int:
    """Fill the gaps of one symbol, or of all in SYMBOLS; return the exit code.

    Args:
        symbol: Any name of the symbol.
    """
    if not waits:
        with server_choice.jobs_redis(settings) as redis_url, warnings_on_stderr():
            symbols, asked, notice = asyncio.run(_ask(redis_url, settings, symbol, min_gap_minutes))
        sys.stderr.write(
            f"requested gap filling for {len(symbols)} symbol(s) from the worker"
            f"{'' if asked == len(symbols) else f'; {len(symbols) - asked} of them were in its queue already'};"
            f" `kraken-history status` shows the missing data\n{notice}"
        )
        return 0
    with server_choice.endpoints(settings) as endpoints, warnings_on_stderr():
        summary = asyncio.run(_fill(endpoints, settings, symbol, min_gap_minutes))
    _print(summary, as_json=as_json)
    return EXIT_FAILED if summary["errors"] else 0


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Log warnings, such as that Kraken is busy, to standard error. Standard output is for the summary."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


async def _ask(
    redis_url: str, settings: Settings, symbol: str | None, min_gap_minutes: float
) -> tuple[Sequence[str], int, str]:
    """Queue a gap check per symbol; return the symbols, how many were not in the worker's queue yet, and a notice."""
    async with await connect_patiently(redis_url, settings) as redis:
        symbols = await _wanted(redis, settings, symbol)
        asked = await JobQueue(queue_on(redis)).fill_gaps(symbols, min_gap_minutes=min_gap_minutes)
        return symbols, asked, await worker_notice(redis)


async def _fill(
    endpoints: server_choice.Endpoints, settings: Settings, symbol: str | None, min_gap_minutes: float
) -> GapSummary:
    async with await connect_patiently(endpoints.jobs_redis_url, settings) as redis:
        return await run_gap_filler(
            endpoints.database_url,
            symbols=await _wanted(redis, settings, symbol),
            history_days=settings.history_days,
            min_gap_minutes=min_gap_minutes,
            kraken_rest_url=settings.kraken_rest_url,
            limiter=RateLimiter(redis, settings.pacing),  # shared with the workers
        )


async def _wanted(redis: Redis, settings: Settings, name: str | None) -> Sequence[str]:
    """The symbols to check, by the project's names.

    Raises:
        UnknownSymbol: Kraken does not list the pair.
        KrakenBusy, ServiceUnavailable: Kraken did not answer the look-up of the pair.
    """
    async with KrakenRest(settings.kraken_rest_url, RateLimiter(redis, settings.pacing), attempts=1) as rest:
        pairs = Resolver(rest.fetch_asset_pairs)
        if name is not None:
            return [await pairs.symbol_of(name)]  # missing time is found without Kraken, and fetched once it answers
        found: dict[str, None] = {}
        for each in settings.symbols:
            try:
                found[await pairs.symbol_of(each)] = None
            except UnknownSymbol:  # the summary reports it, and the other symbols are still checked
                found[each] = None
        return list(found)


def _print(summary: GapSummary, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        return
    for key, value in summary.items():
        if key != "errors":
            sys.stdout.write(f"{key}: {value}\n")
    sys.stdout.write(f"errors: {len(summary['errors'])}\n")
    for error in summary["errors"]:
        sys.stderr.write(f"{error}\n")
