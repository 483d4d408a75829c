"""``indicators``: fetch external indicators, and list the stored ones."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec
from msgspec import Struct

from kraken_history.cli import servers as server_choice
from kraken_history.cli.tables import moment_cell, print_table, table_of
from kraken_history.database.connections import connect, create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.errors import HistoryError, InvalidChoice
from kraken_history.indicators import (
    BTC_DOMINANCE,
    FEAR_GREED,
    WHOLE_HISTORY,
    fetch_btc_dominance,
    fetch_fear_greed,
    store_indicators,
)
from kraken_history.reading.indicators import STORED_INDICATORS
from kraken_history.records import ExternalIndicator
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import Settings

Fetches = Mapping[str, Callable[[], Awaitable[Sequence[ExternalIndicator]]]]


class StoredIndicator(Struct, frozen=True):
    """The stored figures of one indicator."""

    name: str
    figures: int
    oldest: datetime
    newest: datetime
    source: str


def run_fetch(settings: Settings, name: str | None) -> int:
    """Fetch one indicator, or all; return the exit code. A source that fails does not keep the others from it."""
    fetches: Fetches = {
        FEAR_GREED: partial(fetch_fear_greed, settings.fear_greed_url, days=WHOLE_HISTORY),
        BTC_DOMINANCE: partial(fetch_btc_dominance, settings.btc_dominance_url),
    }
    if name is not None and name not in fetches:
        raise InvalidChoice("indicator", name, list(fetches))
    chosen = fetches if name is None else {name: fetches[name]}
    with server_choice.database(settings) as database_url:
        return asyncio.run(_fetch(database_url, chosen))


async def _fetch(database_url: str, fetches: Fetches) -> int:
    code = 0
    async with await create_pool(database_url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await check_schema(connection)
        for name, fetch in fetches.items():
            try:
                found = await fetch()
            except HistoryError as error:
                sys.stderr.write(f"{name}: {error}\n")
                code = EXIT_FAILED
                continue
            stored = await store_indicators(pool, found)
            sys.stderr.write(f"{name}: fetched {len(found):,} figure(s), of which {stored:,} are new or changed\n")
    return code


def run_list(settings: Settings, *, as_json: bool) -> None:
    """Print the stored indicators."""
    with server_choice.database(settings) as database_url:
        stored = asyncio.run(_stored(database_url))
    if as_json:
        sys.stdout.write(msgspec.json.encode(stored).decode() + "\n")
    elif stored:
        table = table_of("name", "figures", "oldest", "newest", "source", times=("oldest", "newest"), texts=["source"])
        for each in stored:
            table.add_row(
                each.name, f"{each.figures:,}", moment_cell(each.oldest), moment_cell(each.newest), each.source
            )
        print_table(table)
    else:
        sys.stderr.write("no indicator is stored: fetch them with `kraken-history indicators fetch`\n")


async def _stored(database_url: str) -> list[StoredIndicator]:
    connection = await connect(database_url)
    try:
        await check_schema(connection)
        return [StoredIndicator(**row) for row in await connection.fetch(STORED_INDICATORS)]
    finally:
        await connection.close()
