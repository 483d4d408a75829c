"""``backfill``: request a backfill from the worker, follow it, and list, pause, resume or cancel backfills."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime

import asyncpg
import msgspec
import typer
from redis.asyncio import Redis

from kraken_history.cli import servers as server_choice
from kraken_history.cli.backfill_progress import follow
from kraken_history.cli.instants import instant, range_options
from kraken_history.cli.redis_away import connect_patiently
from kraken_history.cli.tables import moment_cell, print_table, table_of
from kraken_history.cli.worker_notice import worker_notice
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.errors import UsageError
from kraken_history.fetching.backfill_targets import (
    Backfill,
    cancel_backfills,
    list_backfills,
    pause_backfills,
    request_backfill,
    resume_backfills,
)
from kraken_history.fetching.queue import JobQueue, queue_on
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.limiter import RateLimiter
from kraken_history.kraken.pairs import checked_name, find_symbol
from kraken_history.kraken.resolver import Resolver
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import Settings, load_settings

_ACTIONS = {"pause": pause_backfills, "resume": resume_backfills, "cancel": cancel_backfills}
_DONE = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}

FUTURE = "--to is in the future: the current time is used instead; later trades come from the live feed\n"


def run_command(
    symbol: str | None,
    from_: str | None,
    to: str | None,
    *,
    days: int | None,
    follows: bool,
    status: bool,
    pause: bool,
    resume: bool,
    cancel: bool,
    as_json: bool,
) -> None:
    """Run the action that the options select, and exit with its code."""
    chosen = [name for name, is_chosen in (("pause", pause), ("resume", resume), ("cancel", cancel)) if is_chosen]
    if status + len(chosen) > 1:
        raise UsageError("expected at most one of --status, --pause, --resume and --cancel")
    settings = load_settings()
    if status or chosen:
        if from_ or to or days or follows:
            raise UsageError("--from, --to, --days and --follow apply to a new backfill only: leave them out here")
        name = None if symbol is None else checked_name(symbol)
        raise typer.Exit(run_action(settings, chosen[0], name) if chosen else run_status(settings, name, as_json))
    if symbol is None:
        raise UsageError("expected a symbol, for example: kraken-history backfill BTC/USDT")
    checked_name(symbol)
    start, end = range_options(from_, to, days)
    raise typer.Exit(run_backfill(settings, symbol, start=start, end=end, follows=follows))


def run_backfill(
    settings: Settings, symbol: str, *, start: datetime | None, end: datetime | None, follows: bool
) -> int:
    """Request a backfill, and follow it if ``follows``; return the exit code.

    If a backfill of the symbol is running and no range is given, ``follows`` follows that one.
    """
    with server_choice.endpoints(settings) as endpoints:
        return asyncio.run(_run(endpoints, settings, symbol, start=start, end=end, follows=follows))


def run_status(settings: Settings, symbol: str | None, as_json: bool) -> int:
    """Print the backfills of one symbol, or all; return the exit code."""
    with server_choice.database(settings) as database_url:
        backfills = asyncio.run(_list(database_url, symbol))
    if as_json:
        sys.stdout.write(msgspec.json.encode([_plain(backfill) for backfill in backfills]).decode() + "\n")
    elif backfills:
        print_backfills(backfills)
    else:
        sys.stderr.write(f"there is no backfill{'' if symbol is None else f' of {symbol}'}\n")
    return 0


def run_action(settings: Settings, action: str, symbol: str | None) -> int:
    """Pause, resume or cancel one backfill, or all; return the exit code."""
    with server_choice.endpoints(settings) as endpoints:
        changed = asyncio.run(_act(endpoints, settings, action, symbol))
    for backfill in changed:
        sys.stderr.write(f"{_DONE[action]} {backfill.symbol}, which has reached {_reached(backfill)}\n")
    if not changed:
        sys.stderr.write(f"there is no backfill{'' if symbol is None else f' of {symbol}'} to {action}\n")
    return 0 if changed or symbol is None else EXIT_FAILED


async def _run(
    endpoints: server_choice.Endpoints,
    settings: Settings,
    symbol: str,
    *,
    start: datetime | None,
    end: datetime | None,
    follows: bool,
) -> int:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(await connect_patiently(endpoints.jobs_redis_url, settings))
        pool = await stack.enter_async_context(await _pool(endpoints.database_url))
        if follows and start is None and end is None and (running := await _running(pool, symbol)) is not None:
            return await _watch(pool, redis, running)
        limiter = RateLimiter(redis, settings.pacing)
        async with KrakenRest(settings.kraken_rest_url, limiter, attempts=2) as rest:
            pair = await Resolver(rest.fetch_asset_pairs).find(symbol)
        asked = await request_backfill(pool, pair.symbol, start=start, end=end)
        await JobQueue(queue_on(redis)).backfill(asked.symbol, asked.run)
        beginning = "the beginning" if asked.target_start is None else instant(asked.target_start)
        sys.stderr.write(f"requested {asked.symbol} from {beginning} to {instant(asked.target_end)}\n")
        if end is not None and end > asked.target_end:
            sys.stderr.write(FUTURE)
        sys.stderr.write(await worker_notice(redis))
        return await _follow(pool, asked.symbol) if follows else 0


async def _running(pool: asyncpg.Pool, name: str) -> Backfill | None:
    """The running backfill of the symbol that a name stands for."""
    running = [backfill for backfill in await list_backfills(pool) if backfill.state == "running"]
    return next((backfill for backfill in running if backfill.symbol in _meant(name, running)), None)


async def _watch(pool: asyncpg.Pool, redis: Redis, running: Backfill) -> int:
    """Follow a running backfill, and leave its target as it is."""
    beginning = "the beginning" if running.target_start is None else instant(running.target_start)
    sys.stderr.write(
        f"following the running backfill of {running.symbol} from {beginning} to {instant(running.target_end)}\n"
    )
    sys.stderr.write(await worker_notice(redis))
    return await _follow(pool, running.symbol)


async def _follow(pool: asyncpg.Pool, symbol: str) -> int:
    try:
        return verdict(await follow(pool, symbol))
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write(
            f"the backfill of {symbol} stays with the worker: see it with"
            f" `kraken-history backfill {symbol} --status`, stop it with --pause or --cancel\n"
        )
        raise


def verdict(ended: Backfill) -> int:
    """Say how a backfill ended; return the exit code."""
    without_id = f", {_skipped(ended)}" if ended.unidentified else ""
    why = f": {ended.reason}" if ended.reason else ""
    sys.stderr.write(
        f"the backfill of {ended.symbol} is {ended.state}{why}; {ended.trades:,} new trades in {ended.pages:,} pages,"
        f" up to {_reached(ended)}{without_id}\n"
    )
    return 0 if ended.state == "done" else EXIT_FAILED


async def _list(database_url: str, symbol: str | None) -> list[Backfill]:
    async with await _pool(database_url) as pool:
        backfills = await list_backfills(pool)
    meant = _meant(symbol, backfills)
    return [backfill for backfill in backfills if backfill.symbol in meant]


async def _act(
    endpoints: server_choice.Endpoints, settings: Settings, action: str, symbol: str | None
) -> list[Backfill]:
    async with await _pool(endpoints.database_url) as pool:
        if symbol is None:
            changed = await _ACTIONS[action](pool)
        else:
            meant = _meant(symbol, await list_backfills(pool))
            changed = [each for found in meant for each in await _ACTIONS[action](pool, found)]
    if action == "resume" and changed:
        async with await connect_patiently(endpoints.jobs_redis_url, settings) as redis:
            queue = JobQueue(queue_on(redis))
            for backfill in changed:
                await queue.backfill(backfill.symbol, backfill.run)
            sys.stderr.write(await worker_notice(redis))
    return changed


async def _pool(database_url: str) -> asyncpg.Pool:
    pool = await create_pool(database_url, min_size=1, max_size=2)
    try:
        async with pool.acquire() as connection:
            await check_schema(connection)
    except BaseException:
        pool.terminate()
        raise
    return pool


def _meant(name: str | None, backfills: Sequence[Backfill]) -> list[str]:
    """The symbols of these backfills that match a name, at most one; all symbols without a name."""
    symbols = [backfill.symbol for backfill in backfills]
    if name is None:
        return symbols
    found = find_symbol(name, symbols)
    return [] if found is None else [found]


def print_backfills(backfills: Sequence[Backfill]) -> None:
    """Print a line per backfill, and below the table what went wrong."""
    table = table_of("symbol", "state", "from", "to", "reached", "new trades", "pages", times=("from", "to", "reached"))
    for backfill in backfills:
        table.add_row(
            backfill.symbol,
            backfill.state,
            "the beginning" if backfill.target_start is None else moment_cell(backfill.target_start),
            moment_cell(backfill.target_end),
            moment_cell(backfill.reached),
            f"{backfill.trades:,}",
            f"{backfill.pages:,}",
        )
    print_table(table)
    for backfill in backfills:
        if backfill.reason:
            sys.stdout.write(f"{backfill.symbol}: {backfill.reason[:200]}\n")
        if backfill.unidentified:
            sys.stdout.write(f"{backfill.symbol}: {_skipped(backfill)}\n")


def _skipped(backfill: Backfill) -> str:
    return f"{backfill.unidentified:,} row(s) without a trade id were skipped"


def _plain(backfill: Backfill) -> dict[str, object]:
    plain = msgspec.structs.asdict(backfill)
    del plain["run"], plain["lease_until"], plain["failures"]
    return {**plain, "reached": backfill.reached}


def _reached(backfill: Backfill) -> str:
    return "-" if backfill.reached is None else _short(backfill.reached)


def _short(moment: datetime) -> str:
    return instant(moment.replace(microsecond=0))
