"""Brings an archive up to date: writes the closed months that are new or changed, each as a whole.

A month is replaced in four steps, so that the archive can be read if the process is killed between any two of them:
see ``docs/archive.md``. One process per database archives at a time.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import UUID

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from kraken_history.archive.manifest import TABLES, Entry, Manifest
from kraken_history.archive.place import PART, Place, make_archive, read_manifest, write_manifest
from kraken_history.archive.snapshot import (
    MonthFiles,
    Proof,
    TooManyDigits,
    entry_of,
    find_dropped_tables,
    read_extent,
    read_proof,
    snapshot,
    write_month_files,
)
from kraken_history.database.locks import holding
from kraken_history.errors import ServiceUnavailable
from kraken_history.months import Month
from kraken_history.storing.archived_months import read_versions, register_months

CLOSED_AFTER = timedelta(minutes=10)
"""Time after the end of a month at which it is archived first: by then its last trades are usually healed."""

_LOCK_KEY = 0x61726368697665  # an arbitrary constant; all versions must use the same

State = Literal["written", "replaced", "proof", "current", "kept", "refused"]
"""What happened to a month: it was new; its rows had changed; only what is proven of it had changed; nothing had
changed; it had changed after retention dropped rows of it, so the archived rows were kept; a number does not fit."""


class ArchiveIsRunning(ServiceUnavailable):
    """Another process is archiving this database. Only one may do so at a time."""


class ArchivedMonth(Struct, frozen=True):
    """The outcome of one month.

    Attributes:
        entry: The month's entry now; None if it is not archived.
        reason: Why the month was kept or refused.
    """

    symbol: str
    month: Month
    state: State
    entry: Entry | None = None
    reason: str = ""

    @property
    def unproven(self) -> timedelta:
        """Time of the month that is not proven."""
        proven = sum(((end - start) for start, end in self.entry.proven), timedelta()) if self.entry else timedelta()
        return self.month.end - self.month.start - proven


@asynccontextmanager
async def sole_archiver(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Hold the lock of the only process that may archive this database.

    Raises:
        ArchiveIsRunning: Another process has the lock.
    """
    async with pool.acquire() as connection, holding(connection, _LOCK_KEY, wait_s=0) as is_held:
        if not is_held:
            raise ArchiveIsRunning("another process is archiving: wait for it, or try again later")
        yield


async def archive(
    pool: asyncpg.Pool,
    place: Place,
    symbols: Sequence[str],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    now: datetime | None = None,
) -> AsyncIterator[ArchivedMonth]:
    """Bring the closed months of these symbols up to date; yields each month when it is done, oldest first.

    Args:
        pool: Of at least two connections, without a limit for statements of minutes.
        symbols: Stored symbols.
        start, end: Only months that begin at or after ``start``, and end at or before ``end``.
        now: Instead of the database's clock.

    Raises:
        ArchiveIsRunning: Another process is archiving.
        ArchiveError: The place has other files, or an archive of another format.
    """
    async with sole_archiver(pool):
        await asyncio.to_thread(make_archive, place)
        await asyncio.to_thread(_remove_leftovers, place)
        moment = now or await pool.fetchval("SELECT now()")
        for symbol in symbols:
            extent = await read_extent(pool, symbol)
            if extent is None:
                continue
            months = [
                month
                for month in Month.between(extent[0], extent[1] + timedelta(microseconds=1))
                if month.end + CLOSED_AFTER <= moment
                and (start is None or month.start >= start)
                and (end is None or month.end <= end)
            ]
            if months:
                async for outcome in _archive_symbol(pool, place, symbol, months):
                    yield outcome


async def _archive_symbol(
    pool: asyncpg.Pool, place: Place, symbol: str, months: Sequence[Month]
) -> AsyncIterator[ArchivedMonth]:
    await register_months(pool, symbol, months)
    manifest = await asyncio.to_thread(read_manifest, place, symbol)
    async with pool.acquire() as connection, snapshot(connection):
        versions = await read_versions(connection, symbol)
        proof = await read_proof(connection, symbol, (months[0].start, months[-1].end))
    for month in months:
        outcome, manifest = await _archive_month(pool, place, manifest, month, versions, proof)
        yield outcome


async def _archive_month(
    pool: asyncpg.Pool,
    place: Place,
    manifest: Manifest,
    month: Month,
    versions: Mapping[Month, UUID],
    proof: Proof,
) -> tuple[ArchivedMonth, Manifest]:
    symbol, entries = manifest.symbol, manifest.entries(month)
    known = manifest.settled(month)
    if known is not None and known.version == versions[month]:
        again = entry_of(
            known.version, known.schema, known.written_at, dict(known.objects), known.ids, proof, month,
            manifest.last_id_before(month),
        )  # fmt: skip
        if again == known:
            return ArchivedMonth(symbol, month, "current", known), manifest
        manifest = manifest.having(month, [again])
        await asyncio.to_thread(write_manifest, place, manifest)
        return ArchivedMonth(symbol, month, "proof", again), manifest
    async with pool.acquire() as connection:
        dropped = await find_dropped_tables(connection, month)
        if lost := sorted(dropped & {table for entry in entries for table in entry.objects}):
            reason = f"it changed after retention dropped {' and '.join(lost)} of it"
            return ArchivedMonth(symbol, month, "kept", manifest.latest(month), reason), manifest
        tables = [table for table in TABLES if table not in dropped]
        with tempfile.TemporaryDirectory(prefix="kraken-history-") as folder:
            try:
                made = await write_month_files(
                    connection, symbol, month, tables, Path(folder), manifest.last_id_before(month)
                )
            except TooManyDigits as error:
                return ArchivedMonth(symbol, month, "refused", manifest.latest(month), str(error)), manifest
            manifest = await asyncio.to_thread(replace_month, place, manifest, month, made)
    return ArchivedMonth(symbol, month, "replaced" if entries else "written", made.entry), manifest


def replace_month(place: Place, manifest: Manifest, month: Month, made: MonthFiles) -> Manifest:
    """Put the files of a month in place; return the manifest, which is written too."""
    settled = manifest.settled(month)
    known = {} if settled is None else settled.objects
    kept = {
        table: known[table]
        for table, described in made.entry.objects.items()
        if table in known and known[table].content == described.content
    }
    entry = replace(made.entry, objects={**made.entry.objects, **kept})
    to_come = replace(entry, is_complete=False)
    write_manifest(place, manifest.having(month, [*manifest.entries(month), to_come]))
    for table, path in made.files.items():
        if table not in kept:
            place.put(entry.objects[table].path, path)
    manifest = manifest.having(month, [entry])
    write_manifest(place, manifest)
    return manifest


def _remove_leftovers(place: Place) -> None:
    """Remove files that a killed run was writing."""
    for path in place.list():
        if path.endswith(PART) and path.rpartition("/")[2].startswith("."):
            place.delete(path)
