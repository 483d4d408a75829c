"""Reads of closed months from an archive, joined with reads of the rest from the database.

A month is read from the archive only if the database has the version of it that is archived, which one indexed query
answers. Every other month is read from the database.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from kraken_history.intervals import Span
from kraken_history.months import Month
from kraken_history.reading.arrow_stream import require_packages
from kraken_history.reading.database import Database
from kraken_history.storing.archived_months import read_versions

if TYPE_CHECKING:
    import pyarrow

    from kraken_history.archive.files import OpenObject
    from kraken_history.archive.manifest import Manifest, TableName

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MICROSECOND = timedelta(microseconds=1)


class Part(Struct, frozen=True):
    """A part of a read: from a file of the archive, or from the database if there is none.

    Attributes:
        span: The rows that are wanted of it.
    """

    span: Span
    opened: "OpenObject | None" = None


async def find_parts(database: Database, symbol: str, table: "TableName", span: Span) -> list[Part]:
    """The parts of a read, oldest first, without overlaps; one part if there is no archive.

    Raises:
        MissingExtra: The extra ``arrow`` is not installed.
        ArchiveError: There is no archive at the place, or a file of it cannot be read.
    """
    if database.archive is None or span[0] >= span[1]:
        return [Part(span)]
    await require_packages("arrow", "pyarrow")
    async with database.connection() as connection:
        versions = await read_versions(connection, symbol)
    months = [month for month in Month.between(*span) if month in versions]
    if not months:
        return [Part(span)]
    opened = await asyncio.to_thread(_open, database.archive, symbol, table, months)
    current = {month: each for month, each in opened.items() if each.entry.version == versions[month]}
    return list(_divided(span, current))


def _open(url: str, symbol: str, table: "TableName", months: Sequence[Month]) -> "dict[Month, OpenObject]":
    from kraken_history.archive.files import open_object
    from kraken_history.archive.place import place_of, read_manifest, require_archive

    place = place_of(url)
    require_archive(place)
    manifest: Manifest = read_manifest(place, symbol)
    wanted = [month for month in months if any(entry.is_complete for entry in manifest.entries(month))]
    found = {month: open_object(place, manifest.entries(month), table) for month in wanted}
    return {month: each for month, each in found.items() if each is not None}


def _divided(span: Span, opened: "dict[Month, OpenObject]") -> Iterator[Part]:
    reached = span[0]
    for month in sorted(opened):
        start, end = max(span[0], month.start), min(span[1], month.end)
        if reached < start:
            yield Part((reached, start))
        yield Part((start, end), opened[month])
        reached = end
    if reached < span[1]:
        yield Part((reached, span[1]))


def archived_time(parts: Sequence[Part]) -> list[Span]:
    """The time that is read from the archive, in order."""
    return [part.span for part in parts if part.opened is not None]


def read_part(
    part: Part, schema: "pyarrow.Schema", constants: dict[str, Any], numbers: Literal["decimal", "float"]
) -> "pyarrow.Table":
    """The rows of a part of the archive, with the columns of a read.

    Args:
        constants: Values of the columns that the file does not have.
    """
    import pyarrow

    from kraken_history.archive.tables import floats_of

    assert part.opened is not None
    names = [name for name in schema.names if name not in constants]
    rows = _within(part.opened.file.read(columns=names), part.span)
    columns: dict[str, Any] = {}
    for field in schema:
        if field.name in constants:
            columns[field.name] = pyarrow.repeat(pyarrow.scalar(constants[field.name], field.type), rows.num_rows)
        elif numbers == "float" and pyarrow.types.is_decimal(rows[field.name].type):
            columns[field.name] = floats_of(rows[field.name])
        else:
            columns[field.name] = rows[field.name].cast(field.type)
    return pyarrow.table(columns, schema=schema)


def _within(rows: "pyarrow.Table", span: Span) -> "pyarrow.Table":
    """The rows of a span, of rows in order of time."""
    import pyarrow

    times = rows["timestamp"].cast(pyarrow.int64()).to_numpy()
    low, high = (int(times.searchsorted((bound - _EPOCH) // _MICROSECOND)) for bound in span)
    return rows.slice(low, high - low)
