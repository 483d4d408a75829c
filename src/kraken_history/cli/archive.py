"""``archive``, ``restore-archive`` and ``verify --archive``."""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import typer

from kraken_history.cli import servers as server_choice
from kraken_history.cli.instants import range_options
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import check_schema
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import UsageError
from kraken_history.kraken.pairs import checked_name, find_stored
from kraken_history.reading.arrow_stream import require_packages
from kraken_history.remedies import duration_text
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.settings import load_settings

_FAILED = ("kept", "refused")


class _Lines:
    """Prints each month as it is done, or all of them as JSON at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def add(self, line: str, **found: Any) -> None:
        self.counts[found["state"]] += 1
        self._found.append(found)
        if not self._as_json and found["state"] != "current":
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def end(self) -> None:
        if self._as_json:
            sys.stdout.write(msgspec.json.encode(self._found).decode() + "\n")
        counted = ", ".join(f"{count:,} {_WORDS[state]}" for state, count in sorted(self.counts.items()))
        sys.stderr.write(f"{counted or 'no closed month'}\n")


_WORDS = {
    "written": "month(s) written",
    "replaced": "month(s) replaced",
    "proof": "month(s) with another proof",
    "current": "month(s) up to date",
    "kept": "month(s) kept as they were",
    "refused": "month(s) not archived",
    "restored": "month(s) restored",
    "checked": "month(s) checked",
    "wrong": "month(s) wrong",
}


def run_archive_command(
    uri: str, symbols: Sequence[str], from_: str | None, to: str | None, *, all_: bool, as_json: bool
) -> None:
    """Check the options, bring the archive up to date, and exit with 1 if a month could not be archived."""
    names = [checked_name(name) for name in symbols]
    if bool(names) is all_:
        raise UsageError("expected symbols or --all, for example: kraken-history archive /data/kraken BTC/USDT")
    span = range_options(from_, to)
    asyncio.run(require_packages("arrow", "pyarrow"))
    lines = _Lines(as_json=as_json)
    with server_choice.database(load_settings()) as database_url:
        asyncio.run(_archive(database_url, uri, names, span, lines))
    lines.end()
    if any(lines.counts[state] for state in _FAILED):
        raise typer.Exit(EXIT_FAILED)


async def _archive(
    database_url: str,
    uri: str,
    names: Sequence[str],
    span: tuple[datetime | None, datetime | None],
    lines: _Lines,
) -> None:
    from kraken_history.archive.place import place_of
    from kraken_history.archive.writing import archive

    place = place_of(uri)
    async with await create_pool(database_url, min_size=1, max_size=3) as pool:
        symbols = await _stored(pool, names)
        async for each in archive(pool, place, symbols, start=span[0], end=span[1]):
            objects = {} if each.entry is None else each.entry.objects
            rows = {table: described.rows for table, described in objects.items()}
            size = sum(described.bytes for described in objects.values())
            counted = ", ".join(f"{count:,} {table}" for table, count in rows.items())
            detail = each.reason or f"{counted}, {size / 1e6:,.1f} MB, {_unproven(each.unproven)}"
            lines.add(
                f"{each.symbol}  {each.month}  {each.state:8}  {detail}",
                symbol=each.symbol, month=str(each.month), state=each.state, rows=rows, bytes=size,
                unproven_s=int(each.unproven.total_seconds()), reason=each.reason,
            )  # fmt: skip


def _unproven(time: timedelta) -> str:
    return f"{duration_text(time)} not proven" if time else "proven"


async def _stored(pool: asyncpg.Pool, names: Sequence[str]) -> list[str]:
    """The stored symbols of these names, each once; all without a name."""
    async with pool.acquire() as connection:
        await check_schema(connection)
        stored = await fetch_stored_symbols(connection)
    if not stored:
        raise UsageError("nothing is stored yet: start `kraken-history up`")
    return list(dict.fromkeys(find_stored(name, stored) for name in names)) if names else sorted(stored)


def run_restore_command(uri: str, symbols: Sequence[str], from_: str | None, to: str | None, *, as_json: bool) -> None:
    """Check the options, and restore."""
    names = [checked_name(name) for name in symbols]
    span = range_options(from_, to)
    asyncio.run(require_packages("arrow", "pyarrow"))
    lines = _Lines(as_json=as_json)
    with server_choice.database(load_settings()) as database_url:
        asyncio.run(_restore(database_url, uri, names, span, lines))
    lines.end()


async def _restore(
    database_url: str,
    uri: str,
    names: Sequence[str],
    span: tuple[datetime | None, datetime | None],
    lines: _Lines,
) -> None:
    from kraken_history.archive.place import place_of
    from kraken_history.archive.restoring import restore

    place = place_of(uri)
    async with await create_pool(database_url, min_size=1, max_size=3) as pool:
        async with pool.acquire() as connection:
            await check_schema(connection)
        async for each in restore(pool, place, _archived(place, names), start=span[0], end=span[1]):
            rows = {table: described.rows for table, described in each.entry.objects.items()}
            counted = ", ".join(f"{count:,} {table}" for table, count in rows.items())
            lines.add(
                f"{each.symbol}  {each.month}  {each.state}  {counted}",
                symbol=each.symbol, month=str(each.month), state=each.state, rows=rows,
            )  # fmt: skip


def _archived(place: Any, names: Sequence[str]) -> list[str] | None:
    """The symbols of the archive for these names; None for all."""
    from kraken_history.archive.place import read_manifests, require_archive

    if not names:
        return None
    require_archive(place)
    archived = [manifest.symbol for manifest in read_manifests(place)]
    return list(dict.fromkeys(find_stored(name, archived) for name in names))


def run_check(uri: str, symbols: Sequence[str], *, as_json: bool) -> int:
    """Check an archive, print each month, and return the exit code."""
    names = [checked_name(name) for name in symbols]
    asyncio.run(require_packages("arrow", "pyarrow"))
    lines = _Lines(as_json=as_json)
    with server_choice.database(load_settings()) as database_url:
        asyncio.run(_check(database_url, uri, names, lines))
    lines.end()
    return EXIT_FAILED if lines.counts["wrong"] else 0


async def _check(database_url: str, uri: str, names: Sequence[str], lines: _Lines) -> None:
    from kraken_history.archive.checking import check_archive
    from kraken_history.archive.place import place_of

    place = place_of(uri)
    async with await create_pool(database_url, min_size=1, max_size=2, for_reading=True) as pool:
        async with pool.acquire() as connection:
            await check_schema(connection)
        async for each in check_archive(pool, place, _archived(place, names)):
            compared = "digests right, equal to the database" if each.is_compared else "digests right"
            lines.add(
                f"{each.symbol}  {each.month}  {each.rows:,} rows  {each.problem or compared}",
                symbol=each.symbol, month=str(each.month), state="wrong" if each.problem else "checked",
                rows=each.rows, compared=each.is_compared, problem=each.problem,
            )  # fmt: skip
