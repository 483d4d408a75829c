"""Candles as columns.

Numbers travel as text and are parsed here, beside the server, which takes less time than its own cast to float8 and
gives the same float, the nearest; and which keeps every digit on the way to a decimal.
"""

import asyncio
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from kraken_history.errors import InvalidChoice, UsageError
from kraken_history.intervals import closed_window
from kraken_history.reading.arrow_stream import ARROW, fetch_batches, require_packages
from kraken_history.reading.candle_query import Query, Span, select_candles
from kraken_history.reading.candles import checked_symbol, read_marks, require_symbol
from kraken_history.reading.coverage import complete
from kraken_history.reading.database import Database
from kraken_history.records import HistoricalCandle

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

DECIMAL_DIGITS = 38
DECIMAL_PLACES = 18
"""What a decimal column holds: 20 digits before the point and 18 after it."""


async def read_candles_arrow(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    numbers: Literal["decimal", "float"],
    gaps: Literal["ignore", "raise"] = "ignore",
) -> "pyarrow.Table":
    """The columns of the candles that open at or after ``start`` and are closed at ``end``, oldest first.

    Raises:
        MissingExtra: The extra ``arrow`` is not installed.
        CoverageError: With ``gaps="raise"``, part of the range is missing.
        UsageError: As the checks say; or, with decimals, a number is too long for its column.
        ServiceUnavailable: The database is gone.
    """
    await require_packages("arrow", *ARROW)
    _check_choice("numbers", numbers, ("decimal", "float"))
    _check_choice("gaps", gaps, ("ignore", "raise"))
    span = closed_window(start, end, interval)
    name = checked_symbol(symbol)
    async with complete(database, name, span) if gaps == "raise" and span[0] < span[1] else nullcontext():
        table = await _read_span(database, name, interval, span, numbers)
    if not table.num_rows:
        await require_symbol(database, name)
    return table


async def read_candles_frame(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    as_: Literal["polars", "pandas"],
    gaps: Literal["ignore", "raise"] = "ignore",
) -> "polars.DataFrame | pandas.DataFrame":
    """The candles of :func:`read_candles_arrow` with floats, as a frame; errors as there.

    Raises:
        MissingExtra: The extra ``frames`` is not installed.
    """
    _check_choice("as_", as_, ("polars", "pandas"))
    await require_packages("frames", as_, *ARROW)
    table = await read_candles_arrow(database, symbol, interval, start, end, "float", gaps)
    return await asyncio.to_thread(_polars_frame if as_ == "polars" else _pandas_frame, table)


def _polars_frame(table: "pyarrow.Table") -> "polars.DataFrame":
    import polars

    return polars.DataFrame(table)


def _pandas_frame(table: "pyarrow.Table") -> "pandas.DataFrame":
    return table.to_pandas().set_index("timestamp")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidChoice(name, value, choices)


async def _read_span(
    database: Database, symbol: str, interval: int, span: Span, numbers: Literal["decimal", "float"]
) -> "pyarrow.Table":
    import pyarrow

    schema = candle_schema(numbers)

    def convert(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
        return _as_candles(batch, schema, symbol, interval)

    if span[0] == span[1]:
        return schema.empty_table()
    marks = await read_marks(database, symbol, interval, span)
    select = select_candles(Query(literal=True), symbol, interval, span, marks)
    statement = f"SELECT {_COLUMNS} FROM ({select}) AS c ORDER BY timestamp"  # noqa: S608 — our own SQL
    try:
        batches = await fetch_batches(database, statement, convert)
    except pyarrow.ArrowInvalid as error:
        raise UsageError(
            f"{symbol}: a number has more than {DECIMAL_DIGITS - DECIMAL_PLACES} digits before the point or"
            f" {DECIMAL_PLACES} after it, which no decimal column holds: read with numbers='float', or export CSV"
        ) from error
    return pyarrow.Table.from_batches(batches, schema)


_NUMBERS = ("open", "high", "low", "close", "volume", "quote_volume", "vwap")
_COLUMNS = ", ".join(["timestamp", "trade_count::int8", *(f"{name}::text" for name in _NUMBERS)])


def candle_schema(numbers: Literal["decimal", "float"]) -> "pyarrow.Schema":
    """The columns: the fields of a HistoricalCandle, in order."""
    import pyarrow

    number = pyarrow.float64() if numbers == "float" else pyarrow.decimal128(DECIMAL_DIGITS, DECIMAL_PLACES)
    others: dict[str, pyarrow.DataType] = {
        "symbol": pyarrow.string(),
        "timestamp": pyarrow.timestamp("us", tz="UTC"),
        "interval_minutes": pyarrow.int32(),
        "trade_count": pyarrow.int64(),
    }
    return pyarrow.schema([(name, others.get(name, number)) for name in HistoricalCandle.__struct_fields__])


def _as_candles(
    batch: "pyarrow.RecordBatch", schema: "pyarrow.Schema", symbol: str, interval: int
) -> "pyarrow.RecordBatch":
    """A batch with all the columns of a candle, from one as the statement gives it.

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
