"""The columns of the archive's files, the digest of their content, and their conversion to floats and to text.

A decimal that arrives here is as wide as Arrow's readers get it, decimal(38, 18). A file has narrow decimals where all
of its numbers fit, because readers decode these several times faster.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy
import pyarrow
from msgspec import Struct
from pyarrow import compute

from kraken_history.archive.manifest import TableName

WIDE = pyarrow.decimal128(38, 18)
_PRICE = pyarrow.decimal128(18, 10)
_VOLUME = pyarrow.decimal128(18, 8)
_TIME = pyarrow.timestamp("us", tz="UTC")
_WHOLE_IN_A_DOUBLE = 2**53
_compute: Any = compute  # the types of its functions are not those of their arguments here

COLUMNS: dict[TableName, dict[str, pyarrow.DataType]] = {
    "candles_1m": {
        "timestamp": _TIME,
        **dict.fromkeys(("open", "high", "low", "close"), _PRICE),
        "volume": _VOLUME,
        "quote_volume": WIDE,
        "trade_count": pyarrow.int64(),
        "vwap": _PRICE,
        "source": pyarrow.string(),
        "first_trade_id": pyarrow.int64(),
        "last_trade_id": pyarrow.int64(),
        "stored_at": _TIME,
        "scales": pyarrow.int64(),
    },
    "trades": {
        "id": pyarrow.int64(),
        "timestamp": _TIME,
        "price": _PRICE,
        "volume": _VOLUME,
        "side": pyarrow.string(),
        "order_type": pyarrow.string(),
        "misc": pyarrow.string(),
        "stored_at": _TIME,
        "scales": pyarrow.int64(),
    },
}
"""The columns of each table, with their narrowest types."""

SCALED: dict[TableName, tuple[str, ...]] = {
    "candles_1m": ("open", "high", "low", "close", "volume", "quote_volume", "vwap"),
    "trades": ("price", "volume"),
}
"""The numbers whose digits behind the point ``scales`` counts, from its lowest bits on."""

SCALE_BITS = 6
"""Bits of ``scales`` per number: PostgreSQL keeps zeros after the last digit, and ``verify`` compares them."""

NULLABLE = frozenset({"first_trade_id", "last_trade_id", "stored_at"})

ORDER: dict[TableName, list[str]] = {"candles_1m": ["timestamp"], "trades": ["timestamp", "id"]}
"""The columns by which the rows are sorted."""

SUMS: dict[TableName, tuple[str, ...]] = {
    "candles_1m": ("trade_count", "volume", "quote_volume"),
    "trades": ("volume",),
}
"""The columns whose exact sums the manifest has."""


def is_decimal(type_: pyarrow.DataType) -> bool:
    """True for a column of prices or volumes."""
    return pyarrow.types.is_decimal(type_)


def schema_of(table: TableName, wide: Iterable[str]) -> pyarrow.Schema:
    """The schema of a file.

    Args:
        wide: The columns whose numbers do not fit into their narrow type.
    """
    widened = set(wide)
    return pyarrow.schema(
        [
            pyarrow.field(name, WIDE if name in widened else type_, nullable=name in NULLABLE)
            for name, type_ in COLUMNS[table].items()
        ]
    )


def wide_schema(table: TableName) -> pyarrow.Schema:
    """The schema in which all decimals are wide."""
    return schema_of(table, [name for name, type_ in COLUMNS[table].items() if is_decimal(type_)])


class DoesNotFit(Exception):
    """A number does not fit into the narrow type of its column."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def as_schema(rows: pyarrow.Table, schema: pyarrow.Schema) -> pyarrow.Table:
    """The rows with the types of a schema; no digit is lost.

    Raises:
        DoesNotFit: A number has too many digits.
    """
    columns = []
    for field in schema:
        try:
            columns.append(rows[field.name].cast(field.type))
        except pyarrow.ArrowInvalid as error:
            raise DoesNotFit(field.name) from error
    return pyarrow.table(columns, schema=schema)


class Digest:
    """The digest of rows that come in parts; ``docs/archive.md`` defines it."""

    def __init__(self, table: TableName) -> None:
        self._wide = wide_schema(table)
        self._values = {name: hashlib.sha256() for name in COLUMNS[table]}
        self._nulls = {name: hashlib.sha256() for name in COLUMNS[table] if name in NULLABLE}

    def add(self, rows: pyarrow.Table) -> None:
        """Add the next rows, whatever the width of their decimals."""
        for field in self._wide:
            for chunk in rows[field.name].chunks:
                if field.name in self._nulls:
                    self._nulls[field.name].update(compute.is_null(chunk).cast(pyarrow.uint8()).to_numpy().tobytes())
                self._values[field.name].update(_bytes_of(chunk.cast(field.type)))

    def hex(self) -> str:
        """The digest of all rows so far."""
        lines = [f"{name} {each.hexdigest()}" for name, each in self._values.items()]
        lines += [f"{name}.null {each.hexdigest()}" for name, each in self._nulls.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _bytes_of(array: Any) -> Any:
    if pyarrow.types.is_string(array.type):
        ended = _compute.binary_join_element_wise(array, "", "\0")
        offsets = numpy.frombuffer(ended.buffers()[1], numpy.int32)[ended.offset :][: len(ended) + 1]
        data = ended.buffers()[2]
        return b"" if data is None or not len(ended) else memoryview(data)[offsets[0] : offsets[-1]]
    if is_decimal(array.type):
        return _words(array).tobytes()
    return _compute.fill_null(array.cast(pyarrow.int64()), 0).to_numpy().tobytes()


def _words(array: Any) -> "numpy.ndarray[Any, numpy.dtype[numpy.int64]]":
    """The low and the high half of each unscaled number, as two columns."""
    words = numpy.frombuffer(array.buffers()[1], numpy.int64) if len(array) else numpy.empty(0, numpy.int64)
    return words.reshape(-1, 2)[array.offset : array.offset + len(array)]


class Summary(Struct):
    """What the manifest says about the rows of a file.

    Attributes:
        ids: Id ranges of the trades.
        first, last: Times of the first and the last row.
    """

    table: TableName
    rows: int = 0
    first: datetime | None = None
    last: datetime | None = None
    sums: dict[str, Any] = {}
    sources: dict[str, int] = {}
    ids: list[tuple[int, int]] = []

    def add(self, rows: pyarrow.Table) -> None:
        """Add the next rows, with wide decimals."""
        if not rows.num_rows:
            return
        self.rows += rows.num_rows
        times = rows["timestamp"].cast(pyarrow.int64())
        self.first = self.first or _moment(times[0].as_py())
        self.last = _moment(times[-1].as_py())
        for name in SUMS[self.table]:
            self.sums[name] = self.sums.get(name, 0) + compute.sum(rows[name]).as_py()
        if self.table == "candles_1m":
            counts: Any = rows["source"].value_counts()
            for each in counts.to_pylist():
                self.sources[each["values"]] = self.sources.get(each["values"], 0) + each["counts"]
        else:
            self.ids += _ranges(rows["id"].to_numpy())


def _moment(microseconds: int) -> datetime:
    """Arrow's own conversion imports pandas, which takes seconds."""
    return _EPOCH + timedelta(microseconds=microseconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _ranges(ids: "numpy.ndarray[Any, numpy.dtype[numpy.int64]]") -> list[tuple[int, int]]:
    ordered = numpy.unique(ids)
    ends = numpy.flatnonzero(numpy.diff(ordered) != 1)
    firsts, lasts = ordered[numpy.append(0, ends + 1)], ordered[numpy.append(ends, len(ordered) - 1)]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


def floats_of(numbers: "pyarrow.ChunkedArray[Any]") -> "pyarrow.ChunkedArray[Any]":
    """The nearest float of each decimal, as parsing its text gives it. Arrow's own cast is not always the nearest."""
    return pyarrow.chunked_array([_floats(chunk) for chunk in numbers.chunks], pyarrow.float64())


def _floats(array: Any) -> Any:
    """A quotient of two whole numbers that a double holds exactly is the nearest double, so few need more work."""
    scale = array.type.scale
    if scale > _PRICE.scale:
        try:
            array = array.cast(pyarrow.decimal128(array.type.precision, _PRICE.scale))
            scale = _PRICE.scale
        except pyarrow.ArrowInvalid:
            return array.cast(pyarrow.string()).cast(pyarrow.float64())
    words = _words(array)
    low, high = words[:, 0], words[:, 1]
    found = low / float(10**scale)
    is_exact = (high == low >> 63) & (low <= _WHOLE_IN_A_DOUBLE) & (low >= -_WHOLE_IN_A_DOUBLE)
    if not is_exact.all():
        others = numpy.flatnonzero(~is_exact)
        found[others] = array.take(pyarrow.array(others)).cast(pyarrow.string()).cast(pyarrow.float64()).to_numpy()
    return pyarrow.array(found)


def texts_of(table: TableName, rows: pyarrow.Table, name: str) -> Any:
    """The numbers of a column as PostgreSQL had them, with as many zeros after the last digit; it reads ``1.5E-7``."""
    numbers: Any = rows[name].combine_chunks()
    shift = SCALED[table].index(name) * SCALE_BITS
    scales = rows["scales"].to_numpy() >> shift & (1 << SCALE_BITS) - 1
    parts: list[Any] = []
    places: list[Any] = []
    for scale in numpy.unique(scales):
        place = numpy.flatnonzero(scales == scale)
        parts.append(_with_scale(numbers.take(pyarrow.array(place)), int(scale)))
        places.append(place)
    order: Any = numpy.argsort(numpy.concatenate(places)) if places else []
    return pyarrow.concat_arrays([*parts, pyarrow.array([], pyarrow.string())]).take(
        pyarrow.array(order, pyarrow.int64())
    )


def _with_scale(numbers: Any, scale: int) -> Any:
    kept = min(scale, WIDE.scale)
    texts = numbers.cast(pyarrow.decimal128(38, kept)).cast(pyarrow.string())
    if scale == kept:
        return texts
    # Zeros that no decimal128 holds: they are put before the exponent, if there is one.
    return compute.replace_substring_regex(texts, r"^([^E]*)", r"\1" + "0" * (scale - kept))
