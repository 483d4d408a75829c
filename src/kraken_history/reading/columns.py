"""Candles as columns.

The server sends numbers as text, and they are parsed here. This takes less time than a cast to float8 on the server,
and gives the same float, the nearest. For a decimal, it preserves every digit.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from kraken_history.errors import InvalidChoice, UsageError
from kraken_history.intervals import Span, bucket_start, checked_interval, closed_window, width_of
from kraken_history.reading.archived import Part, archived_time, find_parts, read_part
from kraken_history.reading.arrow_stream import ARROW, fetch_batches, require_packages
from kraken_history.reading.candle_query import Query, select_candles
from kraken_history.reading.candles import read_marks, require_symbol
from kraken_history.reading.coverage import read_kept
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import GapsChoice, checked_gaps
from kraken_history.reading.missing import require_complete, require_kept
from kraken_history.reading.names import by_any_name
from kraken_history.reading.padding import read_known, read_last_close
from kraken_history.records import HistoricalCandle

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

DECIMAL_DIGITS = 38
DECIMAL_PLACES = 18
"""Capacity of a decimal column: 20 digits before the point and 18 after it."""

MADE_UP = "is_made_up"
"""The additional column of a padded table: true if the bucket has no candle. Records have the same field."""


@by_any_name
async def read_candles_arrow(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    numbers: Literal["decimal", "float"],
    gaps: GapsChoice = "ignore",
) -> "pyarrow.Table":
    """The columns of the candles that open at or after ``start`` and are closed at ``end``, oldest first.

    The rows are those of :func:`~kraken_history.reading.strategy_reads.read_candles_over_gaps`. With ``gaps="pad"``,
    :data:`MADE_UP` is the last column.

    Raises:
        MissingExtra: The extra ``arrow`` is not installed.
        CoverageError: With ``gaps="raise"``, part of the range is missing.
        UsageError: An argument is not valid; or, with decimals, a number is too long for its column.
        ServiceUnavailable: The database is unavailable.
    """
    await require_packages("arrow", *ARROW)
    check_choice("numbers", numbers, ("decimal", "float"))
    gaps = checked_gaps(gaps)
    span = closed_window(start, end, interval)
    interval = checked_interval(interval)
    match gaps:
        case "raise":
            table = await _read_or_raise(database, symbol, interval, span, numbers)
        case "pad":
            table = await _read_padded(database, symbol, interval, span, numbers)
        case _:
            parts = await _parts_of(database, symbol, interval, span)
            table = await _read_parts(database, symbol, interval, parts, numbers)
    if not table.num_rows:
        await require_symbol(database, symbol)
    return table


async def read_candles_frame(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    as_: Literal["polars", "pandas"],
    gaps: GapsChoice = "ignore",
) -> "polars.DataFrame | pandas.DataFrame":
    """The candles of :func:`read_candles_arrow` with floats, as a frame; raises the same errors.

    Raises:
        MissingExtra: The extra ``frames`` is not installed.
    """
    check_choice("as_", as_, ("polars", "pandas"))
    await require_packages("frames", as_, *ARROW)
    table = await read_candles_arrow(database, symbol, interval, start, end, "float", gaps)
    return await asyncio.to_thread(polars_frame if as_ == "polars" else pandas_frame, table)


def polars_frame(table: "pyarrow.Table") -> "polars.DataFrame":
    """A table as a frame of Polars."""
    import polars

    return polars.DataFrame(table)


def pandas_frame(table: "pyarrow.Table") -> "pandas.DataFrame":
    """A table as a frame of pandas, with the time as its index."""
    return table.to_pandas().set_index("timestamp")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InvalidChoice if a value is none of its choices."""
    if value not in choices:
        raise InvalidChoice(name, value, choices)


async def _read_or_raise(
    database: Database, symbol: str, interval: int, span: Span, numbers: Literal["decimal", "float"]
) -> "pyarrow.Table":
    start, end = span
    parts = await _parts_of(database, symbol, interval, span)
    archived = archived_time(parts)
    if start < end:
        complete_until = await require_complete(database, symbol, span, interval=interval, archived=archived)
        end = max(start, bucket_start(complete_until, width_of(interval)))
    parts = [Part((part.span[0], min(part.span[1], end)), part.opened) for part in parts if part.span[0] < end]
    table = await _read_parts(database, symbol, interval, parts, numbers)
    await require_kept(database, symbol, (start, end), interval=interval, archived=archived)
    return table


async def _parts_of(database: Database, symbol: str, interval: int, span: Span) -> list[Part]:
    """The archive has one-minute candles only."""
    return [Part(span)] if interval != 1 else await find_parts(database, symbol, "candles_1m", span)


async def _read_parts(
    database: Database, symbol: str, interval: int, parts: Sequence[Part], numbers: Literal["decimal", "float"]
) -> "pyarrow.Table":
    import pyarrow

    schema = candle_schema(numbers)
    tables = [
        await asyncio.to_thread(read_part, part, schema, {"symbol": symbol, "interval_minutes": 1}, numbers)
        if part.opened is not None
        else await _read_span(database, symbol, interval, part.span, numbers)
        for part in parts
    ]
    return pyarrow.concat_tables([schema.empty_table(), *tables])


async def _read_span(
    database: Database, symbol: str, interval: int, span: Span, numbers: Literal["decimal", "float"]
) -> "pyarrow.Table":
    """The candles of a span, from the database."""
    import pyarrow

    schema = candle_schema(numbers)

    def convert(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
        return _as_candles(batch, schema, symbol, interval)

    if span[0] == span[1]:
        return schema.empty_table()
    marks = await read_marks(database, symbol, interval, span)
    select = select_candles(Query(literal=True), symbol, interval, span, marks)
    statement = f"SELECT {_COLUMNS} FROM ({select}) AS c ORDER BY timestamp"  # noqa: S608 — our own SQL
    with long_numbers_refused(symbol):
        batches = await fetch_batches(database, statement, convert)
    return pyarrow.Table.from_batches(batches, schema)


@contextmanager
def long_numbers_refused(symbol: str) -> Iterator[None]:
    """Raise UsageError if a number does not fit into its column."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowInvalid as error:
        raise UsageError(
            f"{symbol}: expected numbers of at most {DECIMAL_DIGITS - DECIMAL_PLACES} digits before the point and"
            f" {DECIMAL_PLACES} after it, got a longer one: read with numbers='float', or export CSV"
        ) from error


async def _read_padded(
    database: Database, symbol: str, interval: int, span: Span, numbers: Literal["decimal", "float"]
) -> "pyarrow.Table":
    start, end = span
    if database.archive is not None and start < end:
        await _refuse_dropped(database, symbol, span)
    known = await read_known(database, symbol, interval, span) if start < end else None
    if known is None:
        return padded_schema(numbers).empty_table()
    start = max(start, known.timestamp)
    parts = await _parts_of(database, symbol, interval, (start, end))
    table = await _read_parts(database, symbol, interval, parts, numbers)
    end = min(end, await read_last_close(database, interval))
    with long_numbers_refused(symbol):
        return await asyncio.to_thread(pad_table, table, known, start, end)


async def _refuse_dropped(database: Database, symbol: str, span: Span) -> None:
    """The close with which padding begins is looked up in the database alone."""
    async with database.connection() as connection:
        if await read_kept(connection, span) != [span]:
            raise UsageError(
                f"{symbol}: expected gaps='raise' or gaps='ignore' for time that retention dropped, got 'pad':"
                " an archive is not padded"
            )


def pad_table(table: "pyarrow.Table", known: HistoricalCandle, start: datetime, end: datetime) -> "pyarrow.Table":
    """:func:`~kraken_history.reading.padding.pad_buckets` for columns.

    Raises:
        pyarrow.ArrowInvalid: The close of ``known`` does not fit into its column.
    """
    import pyarrow
    from pyarrow import compute

    width = width_of(known.interval_minutes)
    if table.num_rows:
        end = max(end, table["timestamp"][-1].as_py() + width)
    times = range(_microseconds(start), _microseconds(end), width // _MICROSECOND)
    buckets = pyarrow.array(times, table.schema.field("timestamp").type)
    rows = compute.index_in(buckets, value_set=table["timestamp"])  # null if a bucket has no row
    close = _last_closes(table, known, rows)
    columns: dict[str, Any] = {
        "symbol": pyarrow.repeat(pyarrow.scalar(known.symbol, pyarrow.string()), len(buckets)),
        "timestamp": buckets,
        "interval_minutes": pyarrow.repeat(pyarrow.scalar(known.interval_minutes, pyarrow.int32()), len(buckets)),
    }
    for field in table.schema:
        if field.name not in columns:
            zero = pyarrow.scalar("ohlc" if field.name == "source" else 0, field.type)
            made_up = close if field.name in _PRICES else zero
            columns[field.name] = compute.coalesce(table[field.name].take(rows), made_up)
    columns[MADE_UP] = compute.is_null(rows)
    return pyarrow.table(columns, schema=_with_mark(table.schema))


def _last_closes(table: "pyarrow.Table", known: HistoricalCandle, rows: Any) -> "pyarrow.Array[Any]":
    """The close of each bucket's row; if it has none, the close before it.

    Args:
        rows: The index of each bucket's row; null if it has none.
    """
    import pyarrow
    from pyarrow import compute

    number = table.schema.field("close").type
    first = known.close if pyarrow.types.is_decimal(number) else float(known.close)
    closes = pyarrow.concat_arrays([pyarrow.array([first], number), *table["close"].chunks])
    found: pyarrow.Array[Any] = closes.take(compute.fill_null(compute.add(compute.fill_null_forward(rows), 1), 0))
    return found


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_PRICES = ("open", "high", "low", "close", "vwap")
_NUMBERS = (*_PRICES, "volume", "quote_volume")
_COLUMNS = ", ".join(["timestamp", "trade_count::int8", *(f"{name}::text" for name in (*_NUMBERS, "source"))])


def candle_schema(numbers: Literal["decimal", "float"]) -> "pyarrow.Schema":
    """The columns: the fields of a HistoricalCandle, in order."""
    import pyarrow

    number = number_type(numbers)
    others: dict[str, pyarrow.DataType] = {
        "symbol": pyarrow.string(),
        "timestamp": pyarrow.timestamp("us", tz="UTC"),
        "interval_minutes": pyarrow.int32(),
        "trade_count": pyarrow.int64(),
        "source": pyarrow.string(),
    }
    return pyarrow.schema([(name, others.get(name, number)) for name in HistoricalCandle.__struct_fields__])


def number_type(numbers: Literal["decimal", "float"]) -> "pyarrow.DataType":
    """The type of a column of prices or volumes."""
    import pyarrow

    return pyarrow.float64() if numbers == "float" else pyarrow.decimal128(DECIMAL_DIGITS, DECIMAL_PLACES)


def padded_schema(numbers: Literal["decimal", "float"]) -> "pyarrow.Schema":
    """:func:`candle_schema`, and :data:`MADE_UP`."""
    return _with_mark(candle_schema(numbers))


def _with_mark(schema: "pyarrow.Schema") -> "pyarrow.Schema":
    import pyarrow

    return schema.append(pyarrow.field(MADE_UP, pyarrow.bool_()))


def _as_candles(
    batch: "pyarrow.RecordBatch", schema: "pyarrow.Schema", symbol: str, interval: int
) -> "pyarrow.RecordBatch":
    """Convert a batch of the statement's rows into one with all columns of a candle.

    Raises:
        pyarrow.ArrowInvalid: A number does not fit into its column.
    """
    import pyarrow

    count = batch.num_rows
    constant = {
        "symbol": pyarrow.repeat(pyarrow.scalar(symbol, pyarrow.string()), count),
        "interval_minutes": pyarrow.repeat(pyarrow.scalar(interval, pyarrow.int32()), count),
    }
    arrays: list[Any] = [
        constant[field.name] if field.name in constant else batch.column(field.name).cast(field.type)
        for field in schema
    ]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)
