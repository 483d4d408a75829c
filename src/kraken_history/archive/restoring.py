"""Restores months of an archive into a database that does not have them."""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg
import numpy
import pyarrow
from msgspec import Struct
from pyarrow import csv

from kraken_history.archive.files import OpenObject, check_file, open_object, row_groups
from kraken_history.archive.manifest import TABLES, ArchiveError, Entry, Manifest, TableName
from kraken_history.archive.place import Place, read_manifests, require_archive
from kraken_history.archive.tables import COLUMNS, SCALED, texts_of
from kraken_history.archive.writing import sole_archiver
from kraken_history.ledger import IdRanges
from kraken_history.months import Month
from kraken_history.records import TimeRange
from kraken_history.storing.archived_months import read_versions
from kraken_history.storing.restored_months import Copied, RestorableMonth, restore_month

_HOUR_US = 3_600_000_000
_BLOCK_ROWS = 65_536  # rows of CSV that are held in memory


class RestoredMonth(Struct, frozen=True):
    """The outcome of one month: ``current`` if the database had it already."""

    symbol: str
    month: Month
    state: Literal["restored", "current"]
    entry: Entry


async def restore(
    pool: asyncpg.Pool,
    place: Place,
    symbols: Sequence[str] | None = None,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> AsyncIterator[RestoredMonth]:
    """Restore the archived months, each in one transaction; yields each when it is committed.

    If it is interrupted, run it again: months that are restored already are left alone.

    Args:
        symbols: By default, all of the archive.
        start, end: Only months that begin at or after ``start``, and end at or before ``end``.

    Raises:
        ArchiveError: There is no archive, it lacks a symbol, or a file is missing or damaged.
        UsageError: The database has other data of a month.
        ArchiveIsRunning: Another process is archiving this database, or restoring it.
    """
    await asyncio.to_thread(require_archive, place)
    manifests = wanted_manifests(await asyncio.to_thread(read_manifests, place), symbols, place)
    async with sole_archiver(pool):
        for manifest in manifests:
            known = await read_versions(pool, manifest.symbol)
            for month in manifest.known_months:
                if (start is not None and month.start < start) or (end is not None and month.end > end):
                    continue
                latest = manifest.entries(month)[-1]
                if known.get(month) == latest.version:
                    yield RestoredMonth(manifest.symbol, month, "current", latest)
                    continue
                entry = await _restore_month(pool, place, manifest, month)
                yield RestoredMonth(manifest.symbol, month, "restored", entry)


def wanted_manifests(found: Sequence[Manifest], symbols: Sequence[str] | None, place: Place) -> list[Manifest]:
    """The manifests of these symbols; by default, all.

    Raises:
        ArchiveError: A symbol has none, or there is none at all.
    """
    by_symbol = {manifest.symbol: manifest for manifest in found}
    missing = [symbol for symbol in symbols or () if symbol not in by_symbol]
    if missing or not by_symbol:
        holds = f"it has {', '.join(by_symbol)}" if by_symbol else "it is empty"
        raise ArchiveError(f"the archive in {place.shown} does not have {', '.join(missing) or 'any symbol'}: {holds}")
    return [by_symbol[symbol] for symbol in symbols] if symbols else list(found)


async def _restore_month(pool: asyncpg.Pool, place: Place, manifest: Manifest, month: Month) -> Entry:
    entries = manifest.entries(month)
    objects = {
        table: found
        for table in TABLES
        if (found := await asyncio.to_thread(open_object, place, entries, table)) is not None
    }
    for each in objects.values():
        await asyncio.to_thread(check_file, place, each.described)
    described = {id(each.entry): each.entry for each in objects.values()}
    if len(described) > 1:
        raise ArchiveError(
            f"{manifest.symbol} {month} is half replaced in {place.shown}: run `kraken-history archive` there again"
        )
    entry = next(iter(described.values()), entries[-1])
    await restore_month(pool, _restorable(manifest.symbol, month, entry, objects))
    return entry


def _restorable(symbol: str, month: Month, entry: Entry, objects: dict[TableName, OpenObject]) -> RestorableMonth:
    relations = {"candles_1m": "candles", "trades": "trades"}
    candles = objects.get("candles_1m")
    return RestorableMonth(
        symbol=symbol,
        month=month,
        version=entry.version,
        tables={relations[table]: _copied(symbol, table, each) for table, each in objects.items()},
        held=entry.ids,
        absent=IdRanges(entry.absent),
        covered_trades=entry.covered_trades,
        covered_candles=entry.covered_candles,
        contested=entry.contested,
        hours=[] if candles is None else _hours(candles),
    )


def _copied(symbol: str, table: TableName, opened: OpenObject) -> Copied:
    constants: dict[str, Any] = {"symbol": pyarrow.scalar(symbol)}
    if table == "candles_1m":
        constants["interval_minutes"] = pyarrow.scalar(1)

    async def blocks() -> AsyncIterator[bytes]:
        for rows in row_groups(opened.file):
            for at in range(0, rows.num_rows, _BLOCK_ROWS):
                yield await asyncio.to_thread(_csv_of, table, rows.slice(at, _BLOCK_ROWS), constants)

    described = opened.described
    extent = None if described.first is None or described.last is None else (described.first, described.last)
    columns = [name for name in COLUMNS[table] if name != "scales"]
    return Copied([*columns, *constants], blocks, described.rows, extent)


def _csv_of(table: TableName, rows: pyarrow.Table, constants: dict[str, Any]) -> bytes:
    columns: dict[str, Any] = {
        name: texts_of(table, rows, name) if name in SCALED[table] else rows[name]
        for name in COLUMNS[table]
        if name != "scales"
    }
    repeated: dict[str, Any] = {name: pyarrow.repeat(value, rows.num_rows) for name, value in constants.items()}
    text = io.BytesIO()
    csv.write_csv(pyarrow.table({**columns, **repeated}), text, csv.WriteOptions(include_header=False))
    return text.getvalue()


def _hours(candles: OpenObject) -> list[TimeRange]:
    """The hours that have candles, joined."""
    times = candles.file.read(columns=["timestamp"])["timestamp"].cast(pyarrow.int64()).to_numpy()
    hours = numpy.unique(times // _HOUR_US)
    if not len(hours):
        return []
    ends = numpy.flatnonzero(numpy.diff(hours) != 1)
    firsts, lasts = hours[numpy.append(0, ends + 1)], hours[numpy.append(ends, len(hours) - 1)]
    return [TimeRange(_moment(first), _moment(last + 1)) for first, last in zip(firsts, lasts, strict=True)]


def _moment(hour: int) -> datetime:
    return datetime.fromtimestamp(int(hour) * 3600, UTC)
