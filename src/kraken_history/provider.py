"""Reading the history: what a strategy uses. Needs asyncpg and msgspec only."""

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType

import asyncpg
from msgspec import Struct

from kraken_history.errors import ServiceUnavailable, UnknownSymbol, UsageError
from kraken_history.migrations import check_schema
from kraken_history.postgres import UNAVAILABLE, create_pool, without_password
from kraken_history.records import HistoricalCandle

VIEWS = {
    1: "candles",
    5: "candles_5m",
    15: "candles_15m",
    30: "candles_30m",
    60: "candles_1h",
    240: "candles_4h",
    720: "candles_12h",
    1440: "candles_1d",
    10080: "candles_1w",
}
"""The table or view of each interval, which is in minutes."""

_COLUMNS = ", ".join(HistoricalCandle.__struct_fields__)


class SyncStatus(Struct, frozen=True):
    """What is stored of one symbol.

    Attributes:
        total_trades: Stored trades.
        missing_trades: Ids between the lowest and the highest stored that are neither stored nor proven not
            to exist; none means that nothing was lost in between.
        last_sync_at: When something was last stored.
    """

    symbol: str
    oldest_timestamp: datetime | None
    newest_timestamp: datetime | None
    last_sync_at: datetime
    total_trades: int
    missing_trades: int
    total_candles: int


class HistoricalDataProvider:
    """Reads one database; ``async with`` opens and closes its connections.

    Args:
        db_url: ``postgresql://user:password@host:5432/name``; several hosts, comma between, are tried in turn.
    """

    def __init__(self, db_url: str, pool_min_size: int = 2, pool_max_size: int = 10) -> None:
        self._db_url = db_url
        self._pool_min_size = pool_min_size
        self._pool_max_size = pool_max_size
        self._pool: asyncpg.Pool | None = None

    async def __aenter__(self) -> "HistoricalDataProvider":
        """Connect.

        Raises:
            UsageError: The URL cannot be used as it is.
            ServiceUnavailable: No database answers there.
            SchemaMismatch: The database is older or newer than this code.
        """
        self._pool = await create_pool(self._db_url, min_size=self._pool_min_size, max_size=self._pool_max_size)
        try:
            async with self._pool.acquire() as connection:
                await check_schema(connection)
        except BaseException:
            await self._pool.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    async def get_candles(
        self, symbol: str, interval: int, start: datetime, end: datetime, limit: int | None = None
    ) -> list[HistoricalCandle]:
        """Candles that open in ``[start, end)``, oldest first.

        Minutes without a trade have no candle.

        Args:
            interval: In minutes, one of :data:`VIEWS`.
            limit: Most candles, the oldest of the range.

        Raises:
            UsageError: The interval is not stored, a time is naive, or the range is empty or reversed.
            UnknownSymbol: Nothing of this symbol is stored.
            ServiceUnavailable: The database is gone.
        """
        view = view_of(interval)
        _check_aware(start, end)
        if start >= end:
            raise UsageError(f"the range is empty or reversed: it starts at {start} and ends before {end}")
        _check_positive(limit)
        rows = await self._fetch(
            f"""
            SELECT {_COLUMNS} FROM {view}
            WHERE symbol = $1 AND interval_minutes = $2 AND timestamp >= $3 AND timestamp < $4
            ORDER BY timestamp LIMIT $5
            """,  # noqa: S608 — only constants of this module are put in
            symbol,
            interval,
            start,
            end,
            limit,
        )
        return await self._candles(symbol, rows)

    async def get_latest_candles(
        self, symbol: str, interval: int, count: int, *, before: datetime | None = None
    ) -> list[HistoricalCandle]:
        """The newest ``count`` candles, oldest of them first; the last may still be running.

        Args:
            before: Only candles that open before this.

        Raises:
            As :meth:`get_candles`.
        """
        view = view_of(interval)
        _check_aware(before)
        _check_positive(count)
        rows = await self._fetch(
            f"""
            SELECT {_COLUMNS} FROM {view}
            WHERE symbol = $1 AND interval_minutes = $2 AND timestamp < coalesce($4, 'infinity'::timestamptz)
            ORDER BY timestamp DESC LIMIT $3
            """,  # noqa: S608 — only constants of this module are put in
            symbol,
            interval,
            count,
            before,
        )
        return await self._candles(symbol, rows[::-1])

    async def get_symbols(self) -> list[str]:
        """The symbols of which something is stored, in alphabetical order."""
        rows = await self._fetch("SELECT DISTINCT symbol FROM data_sync_status ORDER BY symbol")
        return [row["symbol"] for row in rows]

    async def get_sync_status(self, symbol: str) -> SyncStatus | None:
        """What is stored of a symbol; None if nothing is."""
        rows = await self._fetch(
            """
            SELECT $1::text AS symbol, min(s.oldest_timestamp) AS oldest_timestamp,
                   max(s.newest_timestamp) AS newest_timestamp, max(s.last_sync_at) AS last_sync_at,
                   coalesce(sum(s.total_records) FILTER (WHERE data_type = 'trades'), 0)::bigint AS total_trades,
                   coalesce(sum((
                       SELECT sum(upper(hole) - lower(hole))
                       FROM unnest(ledger_holes(s.id_ranges, s.absent_id_ranges)) AS hole
                   )), 0)::bigint AS missing_trades,
                   coalesce(sum(s.total_records) FILTER (WHERE data_type = 'candles_1m'), 0)::bigint AS total_candles
            FROM data_sync_status s WHERE s.symbol = $1 HAVING count(*) > 0
            """,
            symbol,
        )
        return SyncStatus(**rows[0]) if rows else None

    async def _candles(self, symbol: str, rows: Sequence[asyncpg.Record]) -> list[HistoricalCandle]:
        if not rows:
            known = await self.get_symbols()
            if symbol not in known:
                raise UnknownSymbol(symbol, known)
        return [HistoricalCandle(*row) for row in rows]

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        if self._pool is None:
            raise RuntimeError("use the provider inside `async with`")
        try:
            return await self._pool.fetch(query, *arguments)
        except UNAVAILABLE as error:
            place = without_password(self._db_url)
            raise ServiceUnavailable(f"the database at {place} is gone ({error}): try again") from error


def view_of(interval: int) -> str:
    """The table or view of an interval.

    Raises:
        UsageError: Candles of this interval are not stored.
    """
    try:
        return VIEWS[interval]
    except KeyError:
        stored = ", ".join(map(str, VIEWS))
        raise UsageError(f"candles of {interval} minutes are not stored; the intervals are {stored}") from None


def _check_aware(*moments: datetime | None) -> None:
    for moment in moments:
        if moment is not None and moment.tzinfo is None:
            raise UsageError(f"{moment} has no time zone: write for example datetime(2026, 1, 1, tzinfo=UTC)")


def _check_positive(count: int | None) -> None:
    if count is not None and count < 1:
        raise UsageError(f"the number of candles must be at least 1, not {count}")
