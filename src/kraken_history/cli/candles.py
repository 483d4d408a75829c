"""``candles``: what is stored, for people, spreadsheets and programs."""

import asyncio
import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import msgspec

from kraken_history.cli import servers as server_choice
from kraken_history.cli.instants import instant
from kraken_history.cli.tables import print_table, table_of
from kraken_history.errors import UnknownSymbol, UsageError
from kraken_history.kraken.numbers import check_symbol
from kraken_history.provider import HistoricalDataProvider, view_of
from kraken_history.records import HistoricalCandle
from kraken_history.settings import Settings

DEFAULT_LIMIT = 100
_END = datetime(9999, 1, 1, tzinfo=UTC)
_FIELDS = HistoricalCandle.__struct_fields__


def run_candles(
    settings: Settings,
    symbol: str,
    interval: int,
    *,
    start: datetime | None,
    end: datetime | None,
    limit: int | None,
    format_: Literal["table", "csv", "json"],
) -> None:
    """Read candles and write them.

    Raises:
        UsageError: The symbol, the interval or the range cannot be; said before any server is started.
    """
    symbol = _checked_symbol(symbol)
    view_of(interval)
    if start is not None and end is not None and start >= end:
        raise UsageError(f"the range is reversed or empty: --from {instant(start)} must be before --to {instant(end)}")
    with server_choice.database(settings) as database_url:
        candles = asyncio.run(_fetch(database_url, symbol, interval, start, end, limit))
    if candles is None:
        sys.stderr.write("nothing is stored yet: start `kraken-history up`\n")
        candles = []
    elif not candles:
        sys.stderr.write("no candle is stored in this range\n")
    match format_:
        case "table":
            _print_table(candles)
        case "csv":
            _write_csv(candles)
        case "json":
            _write_json(candles)


def _checked_symbol(symbol: str) -> str:
    symbol = symbol.strip().upper()
    try:
        check_symbol(symbol)
    except ValueError:
        raise UnknownSymbol(symbol) from None
    return symbol


async def _fetch(
    database_url: str,
    symbol: str,
    interval: int,
    start: datetime | None,
    end: datetime | None,
    limit: int | None,
) -> list[HistoricalCandle] | None:
    """The candles asked for; None if the database holds nothing at all."""
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        if not await provider.get_symbols():
            return None
        if start is None:
            return await provider.get_latest_candles(symbol, interval, limit or DEFAULT_LIMIT, before=end)
        return await provider.get_candles(symbol, interval, start, end or _END, limit)


def _texts(candle: HistoricalCandle) -> list[str | int]:
    """The fields in order, as text where JSON's own number would lose digits."""
    return [_text(getattr(candle, field)) for field in _FIELDS]


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
    writer.writerow(_FIELDS)
    writer.writerows(map(_texts, candles))


def _write_json(candles: Iterable[HistoricalCandle]) -> None:
    rows = [dict(zip(_FIELDS, _texts(candle), strict=True)) for candle in candles]
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
    sys.stdout.write(f"[{lines}]\n")


def _print_table(candles: Sequence[HistoricalCandle]) -> None:
    if not candles:
        return
    fields = [field for field in _FIELDS if field not in ("symbol", "interval_minutes", "quote_volume")]
    table = table_of(*fields, title=f"{candles[0].symbol}, {candles[0].interval_minutes} min")
    for candle in candles:
        table.add_row(*(str(_text(getattr(candle, field))) for field in fields))
    print_table(table)
