"""Reads one month of one symbol from a snapshot of the database, and writes it into local Parquet files."""

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pyarrow
from msgspec import Struct
from pyarrow import csv
from pyarrow.parquet import ParquetWriter, SortingColumn

from kraken_history.archive.manifest import ArchivedObject, Entry, TableName, object_path
from kraken_history.archive.tables import (
    COLUMNS,
    ORDER,
    SCALE_BITS,
    SCALED,
    Digest,
    DoesNotFit,
    Summary,
    as_schema,
    schema_of,
    wide_schema,
)
from kraken_history.completeness.archived_ledger import ArchivedLedger, read_archived_ledger
from kraken_history.completeness.proven_time import find_proven_time
from kraken_history.database.connections import Connection
from kraken_history.errors import HistoryError
from kraken_history.intervals import Span
from kraken_history.ledger import IdRanges
from kraken_history.months import Month
from kraken_history.storing.archived_months import read_versions

ROW_GROUP_ROWS = 131_072
"""Maximum number of rows of a row group, and so of rows that are held in memory while a file is written."""

CONTENT_KEY = "kraken_history.content"
"""Key of the digest of the rows in a file's metadata."""

_RELATIONS: dict[TableName, str] = {"candles_1m": "candles", "trades": "trades"}
_DAY = timedelta(days=1)
_MOST_IDLE_S = 300  # after so long without a statement, the server ends the session of a frozen process


class TooManyDigits(HistoryError):
    """A number of a month does not fit into decimal(38, 18)."""

    def __init__(self, symbol: str, month: Month) -> None:
        super().__init__(
            f"{symbol} {month}: expected numbers of at most 20 digits before the point and 18 after it, got a longer"
            " one; the month stays in the database only"
        )


class Proof(Struct, frozen=True):
    """What the ledger of a symbol proves, within some time."""

    ledger: ArchivedLedger
    proven: Sequence[Span]
    contested: Sequence[datetime]


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[None]:
    """A transaction whose statements all see the same state, with times as UTC.

    Between two statements the rows are compressed, on a busy machine for longer than a writer may be idle.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(
            f"SET LOCAL timezone = 'UTC'; SET LOCAL idle_in_transaction_session_timeout = '{_MOST_IDLE_S}s'"
        )
        yield


async def read_proof(connection: Connection, symbol: str, span: Span) -> Proof:
    """What is proven of a symbol's time."""
    contested = await connection.fetch(_CONTESTED, symbol, *span)
    return Proof(
        await read_archived_ledger(connection, symbol),
        await find_proven_time(connection, symbol, span),
        [row["timestamp"] for row in contested],
    )


_CONTESTED = """
    SELECT timestamp FROM contested_minutes
    WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 ORDER BY timestamp
"""


async def find_dropped_tables(connection: Connection, month: Month) -> set[TableName]:
    """The tables of which retention has dropped time of this month."""
    rows = await connection.fetch(_DROPPED, month.start, month.end)
    return {table for table, relation in _RELATIONS.items() if relation in {row["relation"] for row in rows}}


_DROPPED = "SELECT relation FROM dropped_ranges WHERE ranges && tstzrange($1, $2)"


class MonthFiles(Struct, frozen=True):
    """The files of a month, on this machine, and the entry that describes them."""

    entry: Entry
    files: dict[TableName, Path]


async def write_month_files(
    connection: Connection, symbol: str, month: Month, tables: Sequence[TableName], folder: Path, after_id: int | None
) -> MonthFiles:
    """Write the tables of a registered month into ``folder``, from one snapshot.

    Args:
        after_id: The highest id of the archived months before this one. Absent ids after it belong to this month.

    Raises:
        TooManyDigits: A number does not fit.
    """
    async with snapshot(connection):
        version = (await read_versions(connection, symbol))[month]
        row = await connection.fetchrow(_NOW)
        assert row is not None  # the statement has one row
        proof = await read_proof(connection, symbol, (month.start, month.end))
        objects: dict[TableName, ArchivedObject] = {}
        ids = IdRanges()
        files = {table: folder / f"{table}.parquet" for table in tables}
        for table, path in files.items():
            objects[table], found = await _write_file(connection, table, symbol, month, path)
            ids |= found
    return MonthFiles(entry_of(version, row["schema"], row["now"], objects, ids, proof, month, after_id), files)


_NOW = "SELECT now() AS now, (SELECT name FROM schema_migrations ORDER BY version DESC, name DESC LIMIT 1) AS schema"


def entry_of(
    version: UUID,
    schema: str,
    now: datetime,
    objects: dict[TableName, ArchivedObject],
    held: IdRanges,
    proof: Proof,
    month: Month,
    after_id: int | None,
) -> Entry:
    """The entry of a month. ``proof`` may be one of a longer time."""
    low = min((start for start, _ in held), default=0) if after_id is None else after_id + 1
    reach = IdRanges([(low, max((stop for _, stop in held), default=low))])
    span = month.start, month.end
    return Entry(
        version=version,
        schema=schema,
        written_at=now,
        objects=objects,
        held=list(held),
        absent=list(proof.ledger.absent & reach),
        proven=within(proof.proven, span),
        covered_trades=within(proof.ledger.covered_trades, span),
        covered_candles=within(proof.ledger.covered_candles, span),
        contested=[minute for minute in proof.contested if month.start <= minute < month.end],
    )


def within(spans: Sequence[Span], bounds: Span) -> list[Span]:
    """The parts of the spans that are inside the bounds."""
    cut = [(max(start, bounds[0]), min(end, bounds[1])) for start, end in spans]
    return [(start, end) for start, end in cut if start < end]


async def _write_file(
    connection: Connection, table: TableName, symbol: str, month: Month, path: Path
) -> tuple[ArchivedObject, IdRanges]:
    """Write a file whose decimals are narrow where all numbers of the month fit."""
    wide: set[str] = set()
    while True:
        try:
            summary, content = await _write_parquet(connection, table, symbol, month, path, schema_of(table, wide))
        except DoesNotFit as error:
            wide.add(error.column)  # the snapshot gives the same rows again
            continue
        described = ArchivedObject(
            path=object_path(table, symbol, month),
            bytes=await asyncio.to_thread(os.path.getsize, path),
            sha256=await asyncio.to_thread(hash_of, path),
            content=content,
            rows=summary.rows,
            first=summary.first,
            last=summary.last,
            sums=summary.sums,
            sources=summary.sources,
        )
        return described, IdRanges(summary.ids)


async def _write_parquet(
    connection: Connection, table: TableName, symbol: str, month: Month, path: Path, schema: pyarrow.Schema
) -> tuple[Summary, str]:
    digest, summary = Digest(table), Summary(table)
    sorting = [SortingColumn(schema.get_field_index(name)) for name in ORDER[table]]
    with ParquetWriter(
        path,
        schema,
        compression="zstd",
        sorting_columns=sorting,
        store_decimal_as_integer=True,
        write_page_checksum=True,
    ) as writer:
        waiting: list[pyarrow.Table] = []
        async for rows in read_parts(connection, table, symbol, month):
            waiting.append(await asyncio.to_thread(_taken_in, rows, schema, digest, summary))
            if sum(each.num_rows for each in waiting) >= ROW_GROUP_ROWS:
                await asyncio.to_thread(_write_rows, writer, waiting)
                waiting = []
        await asyncio.to_thread(_write_rows, writer, waiting)
        writer.add_key_value_metadata({CONTENT_KEY: digest.hex()})
    return summary, digest.hex()


def _taken_in(rows: pyarrow.Table, schema: pyarrow.Schema, digest: Digest, summary: Summary) -> pyarrow.Table:
    digest.add(rows)
    summary.add(rows)
    return as_schema(rows, schema)


def _write_rows(writer: ParquetWriter, parts: list[pyarrow.Table]) -> None:
    if parts:
        writer.write_table(pyarrow.concat_tables(parts), row_group_size=ROW_GROUP_ROWS)


async def read_parts(
    connection: Connection, table: TableName, symbol: str, month: Month
) -> AsyncIterator[pyarrow.Table]:
    """The rows of a month with wide decimals: the candles at once, the trades of a day at a time. No part is empty.

    Raises:
        TooManyDigits: A number does not fit.
    """
    start = month.start
    while start < month.end:
        end = start + _DAY if table == "trades" else month.end
        text = io.BytesIO()
        await _copy(connection, table, symbol, (start, end), text)
        if text.tell():
            yield await asyncio.to_thread(_parsed, table, text, symbol, month)
        start = end


async def _copy(connection: Connection, table: TableName, symbol: str, span: Span, text: io.BytesIO) -> None:
    async def keep(data: bytes) -> None:
        text.write(data)

    await connection.copy_from_query(_QUERIES[table], symbol, *span, output=keep, format="csv")


def _parsed(table: TableName, text: io.BytesIO, symbol: str, month: Month) -> pyarrow.Table:
    schema = wide_schema(table)
    text.seek(0)
    try:
        rows = csv.read_csv(
            text,
            csv.ReadOptions(column_names=schema.names),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(
                column_types={field.name: field.type for field in schema},
                null_values=[""],
                strings_can_be_null=False,
            ),
        )
    except pyarrow.ArrowInvalid as error:
        if "decimal" not in str(error).lower():
            raise
        raise TooManyDigits(symbol, month) from error
    if rows["scales"].null_count:
        raise TooManyDigits(symbol, month)
    return pyarrow.table(rows.columns, schema=schema)


def _scales(table: TableName) -> str:
    """An expression: the scales of a row's numbers; null if a scale or a number is too large for Arrow."""
    names = SCALED[table]
    packed = " | ".join(f"(scale({name})::bigint << {SCALE_BITS * at})" for at, name in enumerate(names))
    largest = ", ".join(f"scale({name})" for name in names)
    sizes = ", ".join(f"abs({name})" for name in names)
    return f"CASE WHEN greatest({largest}) < {1 << SCALE_BITS} AND greatest({sizes}) < 1e20 THEN {packed} END"


def _selected(table: TableName) -> str:
    return ", ".join(_scales(table) if name == "scales" else name for name in COLUMNS[table])


_QUERIES: dict[TableName, str] = {
    table: f"""
    SELECT {_selected(table)} FROM {relation}
    WHERE symbol = $1 AND {"interval_minutes = 1 AND " if table == "candles_1m" else ""}timestamp >= $2
      AND timestamp < $3
    ORDER BY {", ".join(ORDER[table])}
"""  # noqa: S608 — only constants are put in
    for table, relation in _RELATIONS.items()
}


def hash_of(path: Path) -> str:
    """SHA-256 of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def read_extent(connection: asyncpg.Pool | Connection, symbol: str) -> Span | None:
    """Times of the oldest and the newest row of a symbol that was ever stored; None if there is none."""
    row = await connection.fetchrow(_EXTENT, symbol)
    return None if row is None or row["oldest"] is None else (row["oldest"], row["newest"])


_EXTENT = """
    SELECT min(oldest_timestamp) AS oldest, max(newest_timestamp) AS newest FROM data_sync_status
    WHERE symbol = $1 AND data_type IN ('trades', 'candles_1m')
"""
