"""Reading trades."""

from datetime import datetime, timedelta

from kraken_history.intervals import Span, checked_range
from kraken_history.reading.candles import Extent, checked_limit, require_symbol
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import TradeGapsChoice, checked_trade_gaps
from kraken_history.reading.missing import require_complete, require_kept
from kraken_history.reading.names import by_any_name
from kraken_history.reading.pages import PAGE_ROWS, Pages
from kraken_history.records import HistoricalTrade

_DAY = timedelta(days=1)
_LONGEST_REACH_DAYS = 64  # maximum length of a window, and so of the daily partitions that one statement opens
_LIST_ROWS = 32_768  # maximum number of trades per page of `read_trades`


@by_any_name
async def read_trades(
    database: Database,
    symbol: str,
    start: datetime,
    end: datetime,
    limit: int | None = None,
    gaps: TradeGapsChoice = "ignore",
) -> list[HistoricalTrade]:
    """The oldest trades of ``[start, end)``, at most ``limit``, ordered by time and id.

    They are read in pages: one statement over ten years would open, and lock, the partition of every day.

    Args:
        gaps: With ``raise``, trades that are not settled yet are left out; with ``limit``, only time up to the last
            trade to be returned counts.

    Raises:
        CoverageError: With ``raise``, trades of the range are missing.
        UsageError: An argument is not valid.
        UnknownSymbol: Nothing is stored for this symbol.
        ServiceUnavailable: The database is unavailable.
    """
    limit, span = checked_limit(limit), checked_range(start, end)
    if checked_trade_gaps(gaps) == "ignore":
        return await _read_all(database, symbol, span, limit)
    if limit is not None:
        found = await _read_all(database, symbol, span, limit)
        span = (span[0], found[-1].timestamp + _MICROSECOND) if len(found) == limit else span
    span = span[0], await require_complete(database, symbol, span, "trades")
    if span[0] >= span[1]:
        return []
    found = await _read_all(database, symbol, span, limit)
    await require_kept(database, symbol, span, "trades")
    return found


_MICROSECOND = timedelta(microseconds=1)


async def _read_all(database: Database, symbol: str, span: Span, limit: int | None) -> list[HistoricalTrade]:
    pages = TradePages(database, symbol, span, min(limit or _LIST_ROWS, _LIST_ROWS))
    found: list[HistoricalTrade] = []
    while page := await pages.read():
        found += page
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


class TradePages(Pages[HistoricalTrade]):
    """The trades of a symbol, by time and id.

    Their only index begins with the time. So a window is read in the order of the index, and only until a page is
    full. If a symbol is traded seldom, reading it costs the index entries of all other symbols in the window.
    """

    def __init__(self, database: Database, symbol: str, span: Span, rows: int = PAGE_ROWS) -> None:
        super().__init__(*span, rows, unit=_DAY, reach=1, longest_reach=_LONGEST_REACH_DAYS)
        self._database = database
        self._symbol = symbol

    async def _fetch(self, start: datetime, first_id: int, stop: datetime, rows: int) -> list[HistoricalTrade]:
        found = await self._database.fetch(_PAGE, self._symbol, start, stop, first_id, rows)
        return [HistoricalTrade(*row) for row in found]

    async def _extent(self) -> Extent:
        return await read_extent(self._database, self._symbol)

    def _key_after(self, record: HistoricalTrade) -> tuple[datetime, int]:
        return record.timestamp, record.id + 1

    def _start_of(self, oldest: datetime) -> datetime:
        return oldest


async def read_extent(database: Database, symbol: str) -> Extent:
    """Times of the oldest and the newest trade; None if there are candles only.

    Raises:
        UnknownSymbol: Nothing is stored for this symbol.
    """
    rows = await database.fetch(_EXTENT, symbol)
    if rows:
        return Extent(*rows[0])
    await require_symbol(database, symbol)
    return Extent(None, None)


# Trades that were stored earlier have zeros at the end of their numbers.
_COLUMNS = ", ".join(
    f"trim_scale({name}) AS {name}" if name in ("price", "volume") else name
    for name in HistoricalTrade.__struct_fields__
)

_PAGE = f"""
    SELECT {_COLUMNS} FROM trades
    WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3 AND (timestamp > $2 OR id >= $4)
    ORDER BY timestamp, id LIMIT $5
"""  # noqa: S608 — only names of columns are put in

_EXTENT = """
    SELECT oldest_timestamp, newest_timestamp FROM data_sync_status WHERE symbol = $1 AND data_type = 'trades'
"""
