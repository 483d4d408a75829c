"""Bodies of answers: JSON, CSV and Arrow, and how long they may be cached."""

import csv
import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from kraken_history.cli.instants import instant
from kraken_history.records import HistoricalCandle, HistoricalTrade

if TYPE_CHECKING:
    import pyarrow

Record = TypeVar("Record", HistoricalCandle, HistoricalTrade)

CANDLE_FIELDS = HistoricalCandle.__struct_fields__
TRADE_FIELDS = HistoricalTrade.__struct_fields__
MADE_UP = "is_made_up"

PROVEN_FOR_S = 86_400
"""How long what is proven may be served from a cache. It does not change, unless a person removes a trade."""

ARROW = "application/vnd.apache.arrow.stream"
_CSV_ROWS = 2_000  # per chunk


def json_answer(request: Request, body: object, *, is_final: bool = False) -> Response:
    """An answer in JSON; decimals and times are text.

    Args:
        is_final: It is proven, and does not change. Other answers are asked for again, which costs little if they are
            the same as before.
    """
    return _tagged(request, msgspec.json.encode(body), "application/json", is_final=is_final)


def arrow_answer(request: Request, table: "pyarrow.Table", *, is_final: bool) -> Response:
    """A table as an Arrow stream."""
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return _tagged(request, sink.getvalue().to_pybytes(), ARROW, is_final=is_final)


def _tagged(request: Request, body: bytes, media_type: str, *, is_final: bool) -> Response:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    shared = "private" if request.app.state.reads_need_token else "public"
    caching = f"{shared}, max-age={PROVEN_FOR_S}" if is_final else f"{shared}, no-cache"
    headers = {"ETag": tag, "Cache-Control": caching, "Vary": "Accept"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, media_type)


def record_of(record: HistoricalCandle | HistoricalTrade, fields: Sequence[str]) -> dict[str, object]:
    """A record as an object of JSON."""
    return {field: _plain(getattr(record, field)) for field in fields}


def _plain(value: Any) -> object:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return instant(value) if isinstance(value, datetime) else value


def ohlcv_row(candle: HistoricalCandle) -> list[float]:
    """A candle as a row of ccxt's ``fetch_ohlcv``."""
    opened_ms = (candle.timestamp - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000
    values = (candle.open, candle.high, candle.low, candle.close, candle.volume)
    return [round(opened_ms), *map(float, values)]


async def csv_answer(records: AsyncGenerator[Record, None], fields: Sequence[str], name: str) -> Response:
    """The records as CSV, however many there are. The first is read before the answer begins, so an error is told."""
    first = await anext(records, None)
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(_lines(first, records, fields), 200, headers, "text/csv; charset=utf-8")


async def _lines(
    first: Record | None, records: AsyncGenerator[Record, None], fields: Sequence[str]
) -> AsyncIterator[bytes]:
    text = io.StringIO(newline="")
    write: Callable[[Sequence[object]], object] = csv.writer(text, lineterminator="\n").writerow
    write(fields)
    rows = 0
    async with aclosing(records):
        if first is not None:
            write(_texts(first, fields))
        async for record in records:
            write(_texts(record, fields))
            rows += 1
            if rows % _CSV_ROWS == 0:
                yield text.getvalue().encode()
                text.seek(0)
                text.truncate()
    yield text.getvalue().encode()


def _texts(record: HistoricalCandle | HistoricalTrade, fields: Sequence[str]) -> list[object]:
    values = record_of(record, fields).values()
    return [str(value).lower() if isinstance(value, bool) else value for value in values]
