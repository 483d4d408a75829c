"""``candles``: print stored candles as a table, CSV or JSON, or draw them."""

import asyncio
import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec

from kraken_history.cli import plot as plots
from kraken_history.cli import servers as server_choice
from kraken_history.cli.candle_pages import candle_pages, print_csv, print_json, print_tables, stored_range
from kraken_history.cli.instants import instant
from kraken_history.cli.tables import print_table, table_of
from kraken_history.errors import UsageError
from kraken_history.intervals import checked_interval
from kraken_history.kraken.pairs import checked_name
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle
from kraken_history.settings import Settings

DEFAULT_LIMIT = 100
_END = datetime(9999, 1, 1, tzinfo=UTC)
FIELDS = HistoricalCandle.__struct_fields__
_NOTHING = "nothing is stored yet: start `kraken-history up`\n"
_NONE = "no candle is stored in this range\n"


def run_candles(
    settings: Settings,
    symbol: str,
    interval: int,
    *,
    start: datetime | None,
    end: datetime | None,
    limit: int | None,
    format_: Literal["table", "csv", "json"],
    plot: Path | None = None,
) -> None:
    """Read candles and write them, or draw them.

    Raises:
        UsageError: The symbol, the interval or the range is not valid. Raised before any server is started.
    """
    symbol = checked_name(symbol)
    checked_interval(interval)
    check_range(start, end)
    if plot is not None:
        limit = plots.checked_limit(limit, has_start=start is not None)
        plot = plots.checked_target(plot)
    if start is not None and limit is None and plot is None:
        with server_choice.database(settings) as database_url:
            rows = asyncio.run(_print_all(database_url, symbol, interval, start, end or _END, format_))
        if not rows:
            sys.stderr.write(_NOTHING if rows is None else _NONE)
        return
    with server_choice.database(settings) as database_url:
        candles = asyncio.run(_fetch(database_url, symbol, interval, start, end, limit))
    if candles is None:
        sys.stderr.write(_NOTHING)
        candles = []
    elif not candles:
        sys.stderr.write(_NONE)
    if plot is not None:
        plots.write_plot(candles, plot)
        return
    match format_:
        case "table":
            _print_table(candles)
        case "csv":
            _write_csv(candles)
        case "json":
            _write_json(candles)


def check_range(start: datetime | None, end: datetime | None) -> None:
    """Check that ``start`` is before ``end``; None is an open end.

    Raises:
        UsageError: It is not.
    """
    if start is not None and end is not None and start >= end:
        raise UsageError(f"the range is reversed or empty: --from {instant(start)} must be before --to {instant(end)}")


async def _fetch(
    database_url: str,
    symbol: str,
    interval: int,
    start: datetime | None,
    end: datetime | None,
    limit: int | None,
) -> list[HistoricalCandle] | None:
    """The requested candles; None if the database holds no symbol at all."""
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        if not await provider.get_symbols():
            return None
        if start is None:
            return await provider.get_latest_candles(symbol, interval, limit or DEFAULT_LIMIT, end=end)
        return await provider.get_candles(symbol, interval, start, end or _END, limit)


async def _print_all(
    database_url: str, symbol: str, interval: int, start: datetime, end: datetime, format_: str
) -> int | None:
    """Print all candles of a range; return their number, or None if the database holds no symbol at all."""
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        status = await provider.get_sync_status(symbol)
        if status is None:
            if await provider.get_symbols():
                await provider.get_candles(symbol, interval, start, end, 1)  # raises: the symbol is not stored
            span, rows = (end, end), None
        else:
            span, rows = stored_range(status, interval, start, end), 0
        found = candle_pages(lambda *page: provider.get_candles(symbol, interval, *page), span, interval)
        match format_:
            case "csv":
                rows = await print_csv(found, FIELDS, texts_of) or rows
            case "json":
                rows = await print_json(found, FIELDS, texts_of) or rows
            case _:
                rows = await print_tables(found, _print_table) or rows
    return rows


def texts_of(candle: HistoricalCandle) -> list[str | int]:
    """The fields in order; decimals as text, since a JSON number may lose digits, and times as text."""
    return [_text(getattr(candle, field)) for field in FIELDS]


def _text(value: object) -> str | int:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return instant(value)
        case int():
            return value
        case _:
            return str(value)


def _write_csv(candles: Iterable[HistoricalCandle]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(map(texts_of, candles))


def _write_json(candles: Iterable[HistoricalCandle]) -> None:
    rows = [dict(zip(FIELDS, texts_of(candle), strict=True)) for candle in candles]
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
    sys.stdout.write(f"[{lines}]\n")


def _print_table(candles: Sequence[HistoricalCandle]) -> None:
    if not candles:
        return
    fields = [field for field in FIELDS if field not in ("symbol", "interval_minutes", "quote_volume")]
    table = table_of(*fields, title=f"{candles[0].symbol}, {candles[0].interval_minutes} min")
    for candle in candles:
        table.add_row(*(str(_text(getattr(candle, field))) for field in fields))
    print_table(table)
