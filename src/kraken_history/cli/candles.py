"""``candles``: print stored candles as a table, CSV or JSON, or draw them.

Tables and plots are loaded when they are needed: the libraries behind them take longer to load than most reads.
"""

import asyncio
import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from kraken_history.cli import servers as server_choice
from kraken_history.cli.candle_pages import Pages, candle_pages, print_csv, print_json, print_tables, stored_range
from kraken_history.cli.gaps_option import MADE_UP, Gaps
from kraken_history.cli.instants import instant
from kraken_history.errors import CoverageError
from kraken_history.intervals import checked_interval, width_of
from kraken_history.kraken.pairs import checked_name
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.gaps import GapsChoice
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.remedies import coverage_command, duration_text
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
    gaps: Gaps = Gaps.IGNORE,
) -> None:
    """Read candles and write them, or draw them.

    Raises:
        UsageError: The symbol or the interval is not valid. Raised before any server is started.
        CoverageError: With ``Gaps.RAISE``, part of the range is missing.
    """
    symbol = checked_name(symbol)
    checked_interval(interval)
    if plot is not None:
        from kraken_history.cli import plot as plots

        limit = plots.checked_limit(limit, has_start=start is not None)
        plot = plots.checked_target(plot)
    if start is not None and limit is None and plot is None:
        with server_choice.database(settings) as database_url:
            printed = asyncio.run(_print_all(database_url, symbol, interval, start, end or _END, format_, gaps))
        if printed is None or not printed.rows:
            sys.stderr.write(_NOTHING if printed is None else _NONE)
        sys.stderr.write("" if printed is None else printed.missing)
        return
    with server_choice.database(settings) as database_url:
        found = asyncio.run(_fetch(database_url, symbol, interval, start, end, limit, gaps))
    if found is None:
        sys.stderr.write(_NOTHING)
    elif not found.candles:
        sys.stderr.write(_NONE)
    candles = [] if found is None else found.candles
    if plot is not None:
        from kraken_history.cli import plot as plots

        plots.write_plot(candles, plot)
    else:
        _write(candles, format_, fields_with(gaps))
    if found is not None and found.missing:
        sys.stderr.write(found.missing)


def _write(
    candles: Sequence[HistoricalCandle], format_: Literal["table", "csv", "json"], fields: Sequence[str]
) -> None:
    match format_:
        case "table":
            from kraken_history.cli.candle_table import print_candles

            print_candles(candles)
        case "csv":
            _write_csv(candles, fields)
        case "json":
            _write_json(candles, fields)


class _Found(Struct, frozen=True):
    """Candles, and a line that says how much of their range is missing; empty if nothing is."""

    candles: list[HistoricalCandle]
    missing: str


class _Printed(Struct, frozen=True):
    """The number of printed candles, and a line as of :class:`_Found`."""

    rows: int
    missing: str


async def _fetch(
    database_url: str,
    symbol: str,
    interval: int,
    start: datetime | None,
    end: datetime | None,
    limit: int | None,
    gaps: Gaps,
) -> _Found | None:
    """The requested candles; None if the database holds no symbol at all."""
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        if not await provider.get_symbols():
            return None
        looked_until = min(end or _END, datetime.now(UTC))
        if start is None:
            candles = await provider.get_latest_candles(
                symbol, interval, limit or DEFAULT_LIMIT, end=end, gaps=gaps.choice
            )
            start = candles[0].timestamp if candles else looked_until
        else:
            candles = await provider.get_candles(symbol, interval, start, end or _END, limit, gaps=gaps.choice)
            if limit is not None and len(candles) == limit:
                looked_until = min(looked_until, candles[-1].timestamp + width_of(interval))
        return _Found(candles, await what_is_missing(provider, symbol, interval, start, looked_until))


async def what_is_missing(
    provider: HistoricalDataProvider, symbol: str, interval: int, start: datetime, end: datetime
) -> str:
    """A line that says how much of the range is missing, and which command shows where; empty if nothing is."""
    if start < end:
        try:
            await provider.require_complete(symbol, start, end, interval)
        except CoverageError as error:
            missing, command = duration_text(error.duration), coverage_command(error.symbol, start, end)
            return f"{missing} of this range is missing: `{command}` shows where\n"
    return ""


def fields_with(gaps: Gaps) -> tuple[str, ...]:
    """The fields of candles that are read with this choice, in order."""
    return (*FIELDS, MADE_UP) if gaps.pads else FIELDS


async def _print_all(
    database_url: str, symbol: str, interval: int, start: datetime, end: datetime, format_: str, gaps: Gaps
) -> _Printed | None:
    """Print all candles of a range, page by page; None if the database holds no symbol at all."""
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        if not await provider.get_symbols():
            return None
        until = min(end, datetime.now(UTC))
        if gaps is Gaps.RAISE and start < until:
            end = min(end, await provider.require_complete(symbol, start, until, interval))
        status = await provider.get_sync_status(symbol)
        if status is None:
            await provider.get_candles(symbol, interval, start, end, 1, gaps="ignore")  # raises: it is not stored
            return _Printed(0, "")
        # Made-up candles go on after the last stored one.
        span = (start, until) if gaps.pads else stored_range(status, interval, start, end)
        choice: GapsChoice = "pad" if gaps.pads else "ignore"
        found = candle_pages(
            lambda low, high: provider.get_candles(symbol, interval, low, high, gaps=choice), span, interval
        )
        rows = await _print_pages(found, format_, fields_with(gaps))
        return _Printed(rows, await what_is_missing(provider, symbol, interval, start, until))


async def _print_pages(found: Pages, format_: str, fields: Sequence[str]) -> int:
    match format_:
        case "csv":
            return await print_csv(found, fields, lambda candle: texts_of(candle, fields))
        case "json":
            return await print_json(found, fields, lambda candle: texts_of(candle, fields))
        case _:
            from kraken_history.cli.candle_table import print_candles

            return await print_tables(found, print_candles)


def texts_of(record: HistoricalCandle | HistoricalTrade, fields: Sequence[str] = FIELDS) -> list[str | int]:
    """The fields in order; decimals as text, since a JSON number may lose digits, and times as text."""
    return [_text(getattr(record, field)) for field in fields]


def _text(value: object) -> str | int:
    match value:
        case bool():
            return str(value).lower()
        case Decimal():
            return f"{value:f}"
        case datetime():
            return instant(value)
        case int():
            return value
        case _:
            return str(value)


def _write_csv(candles: Iterable[HistoricalCandle], fields: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(texts_of(candle, fields) for candle in candles)


def _write_json(candles: Iterable[HistoricalCandle], fields: Sequence[str]) -> None:
    rows = [dict(zip(fields, texts_of(candle, fields), strict=True)) for candle in candles]
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
    sys.stdout.write(f"[{lines}]\n")
