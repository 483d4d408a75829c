"""Checks an archive: its files against their digests, and some of its months against the database."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from uuid import UUID

import asyncpg
from msgspec import Struct

from kraken_history.archive.files import check_file, content_of, open_object
from kraken_history.archive.manifest import TABLES, ArchiveError, Manifest, TableName
from kraken_history.archive.place import Place, is_archive, read_manifests, require_archive
from kraken_history.archive.restoring import wanted_manifests
from kraken_history.archive.snapshot import TooManyDigits, find_dropped_tables, read_parts, snapshot
from kraken_history.archive.tables import Digest
from kraken_history.months import Month
from kraken_history.storing.archived_months import read_versions
from kraken_history.storing.retention import Held

COMPARED_MONTHS = 3
"""Number of months per symbol that are compared with the database, chosen at random."""


class CheckedMonth(Struct, frozen=True):
    """The outcome of one month.

    Attributes:
        rows: Number of rows in its files.
        is_compared: True if the rows were compared with those of the database.
        problem: What is wrong; empty if nothing is.
    """

    symbol: str
    month: Month
    rows: int
    is_compared: bool
    problem: str = ""


async def check_archive(
    pool: asyncpg.Pool, place: Place, symbols: Sequence[str] | None = None, *, seed: int | None = None
) -> AsyncIterator[CheckedMonth]:
    """Read every file, and compare :data:`COMPARED_MONTHS` months per symbol with the database; yields each month.

    A month is compared if the database has the version that is archived, and retention has dropped nothing of it.

    Args:
        symbols: By default, all of the archive.
        seed: Of the choice of months.

    Raises:
        ArchiveError: There is no archive, or it lacks a symbol.
    """
    await asyncio.to_thread(require_archive, place)
    chosen = random.Random(seed)
    for manifest in wanted_manifests(await asyncio.to_thread(read_manifests, place), symbols, place):
        versions = await read_versions(pool, manifest.symbol)
        months = manifest.known_months
        comparable = [month for month in months if manifest.entries(month)[-1].version == versions.get(month)]
        compared = set(chosen.sample(comparable, min(COMPARED_MONTHS, len(comparable))))
        for month in months:
            yield await _check_month(pool, place, manifest, month, is_compared=month in compared)


async def _check_month(
    pool: asyncpg.Pool, place: Place, manifest: Manifest, month: Month, *, is_compared: bool
) -> CheckedMonth:
    rows = 0
    try:
        for table in TABLES:
            rows += await asyncio.to_thread(_check_object, place, manifest, month, table)
        if is_compared:
            is_compared = await _compare(pool, manifest, month)
    except (ArchiveError, TooManyDigits) as error:
        return CheckedMonth(manifest.symbol, month, rows, is_compared, str(error))
    return CheckedMonth(manifest.symbol, month, rows, is_compared)


def _check_object(place: Place, manifest: Manifest, month: Month, table: TableName) -> int:
    opened = open_object(place, manifest.entries(month), table)
    if opened is None:
        return 0
    check_file(place, opened.described)
    rows = opened.file.metadata.num_rows
    if rows != opened.described.rows or content_of(table, opened.file) != opened.described.content:
        raise ArchiveError(f"the rows of {opened.described.path} are not those that the manifest describes")
    return rows


async def _compare(pool: asyncpg.Pool, manifest: Manifest, month: Month) -> bool:
    """Compare with the database; False if it has another version of the month by now, or has dropped rows of it."""
    entry = manifest.entries(month)[-1]
    async with pool.acquire() as connection, snapshot(connection):
        is_same = (await read_versions(connection, manifest.symbol)).get(month) == entry.version
        if not is_same or await find_dropped_tables(connection, month):
            return False
        for table, described in entry.objects.items():
            digest = Digest(table)
            async for rows in read_parts(connection, table, manifest.symbol, month):
                await asyncio.to_thread(digest.add, rows)
            if digest.hex() != described.content:
                raise ArchiveError(
                    f"{manifest.symbol} {month}: the {table} of the database are not those of the archive, although no"
                    " write of this program changed them: compare both with `kraken-history verify`"
                )
    return True


async def find_held(pool: asyncpg.Pool, place: Place, months: Iterable[Month]) -> Held:
    """What the archive provably holds of these months: files whose bytes have their digest, of the current version.

    Nothing is held if there is no archive, or one that cannot be read.
    """
    wanted = set(months)
    if not wanted or not await asyncio.to_thread(is_archive, place):
        return {}
    held: dict[tuple[str, str, Month], UUID] = {}
    for manifest in await asyncio.to_thread(read_manifests, place):
        versions = await read_versions(pool, manifest.symbol)
        for month in wanted.intersection(manifest.known_months):
            held |= await asyncio.to_thread(_held_of, place, manifest, month, versions)
    return held


def _held_of(
    place: Place, manifest: Manifest, month: Month, versions: Mapping[Month, UUID]
) -> dict[tuple[str, str, Month], UUID]:
    entry = manifest.settled(month)
    if entry is None or entry.version != versions.get(month):
        return {}
    held: dict[tuple[str, str, Month], UUID] = {}
    for table, described in entry.objects.items():
        try:
            check_file(place, described)
        except ArchiveError:
            continue
        held["candles" if table == "candles_1m" else table, manifest.symbol, month] = entry.version
    return held
