"""``backfill`` of several symbols: each is requested, and then one after the other is followed."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import typer
from pydantic import SecretStr

from kraken_history.cli import backfill
from kraken_history.cli import servers as server_choice
from kraken_history.cli.backfill_progress import follow
from kraken_history.cli.instants import range_options
from kraken_history.database.connections import create_pool
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import UsageError
from kraken_history.fetching.backfill_targets import list_backfills
from kraken_history.kraken.pairs import checked_name, find_symbol
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import Settings, load_settings


def run_command(
    symbols: Sequence[str] | None,
    from_: str | None,
    to: str | None,
    *,
    days: int | None,
    all_: bool,
    follows: bool,
    status: bool,
    pause: bool,
    resume: bool,
    cancel: bool,
    as_json: bool,
) -> None:
    """Run the action that the options select, for each symbol, and exit with the code."""
    names = list(dict.fromkeys(checked_name(name) for name in symbols or ()))
    if all_ and names:
        raise UsageError("expected symbols or --all, got both")
    is_action = status or pause or resume or cancel
    if is_action and len(names) > 1:
        raise UsageError("expected one symbol, or none for all, with --status, --pause, --resume and --cancel")
    if is_action or not (all_ or len(names) > 1):
        backfill.run_command(
            names[0] if names else None, from_, to,
            days=days, follows=follows, status=status, pause=pause, resume=resume, cancel=cancel, as_json=as_json,
        )  # fmt: skip
        return
    raise typer.Exit(run_backfills(load_settings(), names, range_options(from_, to, days), follows=follows))


def run_backfills(
    settings: Settings, names: Sequence[str], target: tuple[datetime | None, datetime | None], *, follows: bool
) -> int:
    """Request a backfill of each symbol, by default of all that are stored or in SYMBOLS; return the exit code."""
    start, end = target
    with server_choice.endpoints(settings) as endpoints:
        urls = {"database_url": SecretStr(endpoints.database_url), "redis_url": SecretStr(endpoints.redis_url)}
        settings = settings.model_copy(update=urls)  # the servers that run now
        names = names or asyncio.run(_all(endpoints.database_url, settings.symbols))
        codes = [backfill.run_backfill(settings, name, start=start, end=end, follows=False) for name in names]
        if follows:
            codes += asyncio.run(_follow(endpoints.database_url, names))
    return EXIT_FAILED if any(codes) else 0


async def _all(database_url: str, wanted: Sequence[str]) -> list[str]:
    """The symbols that are stored or wanted, each once."""
    async with await create_pool(database_url, min_size=1, max_size=1) as pool:
        stored = await fetch_stored_symbols(pool)
    return [*stored, *(name for name in wanted if find_symbol(name, stored) is None)]


async def _follow(database_url: str, names: Sequence[str]) -> list[int]:
    async with await create_pool(database_url, min_size=1, max_size=1) as pool:
        requested = [each.symbol for each in await list_backfills(pool)]
        found = [find_symbol(name, requested) for name in names]
        return [backfill.verdict(await follow(pool, symbol)) for symbol in found if symbol is not None]
