"""Trades as columns. The numbers are sent as text and parsed here, as for candles."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from kraken_history.intervals import Span, checked_range
from kraken_history.reading.archived import Part, archived_time, find_parts, read_part
from kraken_history.reading.arrow_stream import ARROW, fetch_batches, require_packages
from kraken_history.reading.candle_query import Query
from kraken_history.reading.columns import check_choice, long_numbers_refused, number_type, pandas_frame, polars_frame
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import TradeGapsChoice, checked_trade_gaps
from kraken_history.reading.missing import require_complete, require_kept
from kraken_history.reading.names import by_any_name
from kraken_history.reading.trades import read_extent
from kraken_history.records import HistoricalTrade

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

FIELDS = HistoricalTrade.__struct_fields__
_WINDOW = timedelta(days=7)  # read by one statement, and so the number of daily partitions that it opens
_INSTANT = timedelta(microseconds=1)


@by_any_name
async def read_trades_arrow(
    database: Database,
    symbol: str,
    start: datetime,
    end: datetime,
    numbers: Literal["decimal", "float"],
    gaps: TradeGapsChoice = "ignore",
) -> "pyarrow.Table":
    """The columns of the trades of ``[start, end)``, by time, and by id within one instant.

    Args:
        gaps: As for :func:`~kraken_history.reading.trades.read_trades`.

    Raises:
        CoverageError: With ``raise``, trades of the range are missing.
        MissingExtra: The extra ``arrow`` is not installed.
        UsageError: An argument is not valid; or, with decimals, a number is too long for its column.
        UnknownSymbol: Nothing is stored for this symbol.
        ServiceUnavailable: The database is unavailable.
    """
    await require_packages("arrow", *ARROW)
    check_choice("numbers", numbers, ("decimal", "float"))
    import pyarrow

    span, is_checked = checked_range(start, end), checked_trade_gaps(gaps) == "raise"
    parts = await find_parts(database, symbol, "trades", span)
    archived = archived_time(parts)
    if is_checked:
        span = span[0], await require_complete(database, symbol, span, "trades", archived=archived)
    schema = trade_schema(numbers)
    tables = [schema.empty_table()]
    for part in parts:
        within = part.span[0], min(part.span[1], span[1])
        if within[0] >= within[1]:
            continue
        if part.opened is not None:
            wanted = Part(within, part.opened)
            tables.append(await asyncio.to_thread(read_part, wanted, schema, {"symbol": symbol}, numbers))
            continue
        async with aclosing(trade_batches(database, symbol, within, numbers)) as pages:
            tables.append(pyarrow.Table.from_batches([batch async for page in pages for batch in page], schema))
    if not any(table.num_rows for table in tables):
        await read_extent(database, symbol)  # raises if nothing is stored for this symbol
    if is_checked and span[0] < span[1]:
        await require_kept(database, symbol, span, "trades", archived=archived)
    return pyarrow.concat_tables(tables)


async def read_trades_frame(
    database: Database,
    symbol: str,
    start: datetime,
    end: datetime,
    as_: Literal["polars", "pandas"],
    gaps: TradeGapsChoice = "ignore",
) -> "polars.DataFrame | pandas.DataFrame":
    """The trades of :func:`read_trades_arrow` with floats, as a frame; raises the same errors.

    Raises:
        MissingExtra: The extra ``frames`` is not installed.
    """
    check_choice("as_", as_, ("polars", "pandas"))
    await require_packages("frames", as_, *ARROW)
    table = await read_trades_arrow(database, symbol, start, end, "float", gaps)
    return await asyncio.to_thread(polars_frame if as_ == "polars" else pandas_frame, table)


async def trade_batches(
    database: Database, symbol: str, span: Span, numbers: Literal["decimal", "float"]
) -> "AsyncGenerator[list[pyarrow.RecordBatch], None]":
    """The trades of a stored symbol, some days at a time. The extra ``arrow`` must be installed."""
    import pyarrow

    schema = trade_schema(numbers)

    def convert(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
        arrays = [
            pyarrow.repeat(pyarrow.scalar(symbol, field.type), batch.num_rows)
            if field.name == "symbol"
            else batch.column(field.name).cast(field.type)
            for field in schema
        ]
        return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)

    extent = await read_extent(database, symbol)
    if extent.oldest is None or extent.newest is None:
        return
    for window in _windows(max(span[0], extent.oldest), min(span[1], extent.newest + _INSTANT)):
        with long_numbers_refused(symbol):
            yield await fetch_batches(database, _statement(symbol, window), convert)


def trade_schema(numbers: Literal["decimal", "float"]) -> "pyarrow.Schema":
    """The columns: the fields of a HistoricalTrade, in order."""
    import pyarrow

    others: dict[str, pyarrow.DataType] = {
        "id": pyarrow.int64(),
        "timestamp": pyarrow.timestamp("us", tz="UTC"),
        "price": number_type(numbers),
        "volume": number_type(numbers),
    }
    return pyarrow.schema([(name, others.get(name, pyarrow.string())) for name in FIELDS])


def _windows(start: datetime, end: datetime) -> Iterator[Span]:
    while start < end:
        yield start, min(end, start + _WINDOW)
        start += _WINDOW


def _statement(symbol: str, window: Span) -> str:
    query = Query(literal=True)
    columns = ", ".join(name if name in ("id", "timestamp") else f"{name}::text" for name in FIELDS if name != "symbol")
    return f"""
        SELECT {columns} FROM trades
        WHERE symbol = {query.put(symbol, "text")} AND timestamp >= {query.put(window[0], "timestamptz")}
          AND timestamp < {query.put(window[1], "timestamptz")}
        ORDER BY timestamp, id
    """  # noqa: S608 — quoted literals and names of columns are put in
