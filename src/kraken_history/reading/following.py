"""Closed candles as they are stored.

A follower queries the database when a notification says that one of its candles may have closed, and also every few
seconds. It polls because candles also close as time passes, and because a replica, or a database that restarts, sends
no notifications. The candles that it emits depend only on the stored data and on its own position, so a lost
notification only costs time.

:mod:`kraken_history.reading.settling` defines when a candle is closed. If a candle changes after it was emitted, the
follower does not report the change: read the candle again with ``get_candles``.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import asyncpg
import msgspec

from kraken_history.arguments import checked_list
from kraken_history.database.connections import Connection
from kraken_history.database.failures import UNAVAILABLE, is_transient
from kraken_history.database.poolers import is_pooled
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import HistoryError, InvalidChoice
from kraken_history.intervals import Span, as_utc, bucket_end, bucket_start, checked_interval, width_of
from kraken_history.kraken.pairs import checked_name, find_symbol
from kraken_history.reading.candles import read_span
from kraken_history.reading.database import Database
from kraken_history.reading.follow_gaps import FlatCandles, Refusal
from kraken_history.reading.gaps import GapsChoice, checked_gaps
from kraken_history.reading.missing import Gaps
from kraken_history.reading.settling import Settled, Timing, read_settled
from kraken_history.records import HistoricalCandle
from kraken_history.runtime.tasks import end
from kraken_history.storing.announcing import CANDLES_CHANNEL

_DEFAULT = Timing()
_PAGE_CANDLES = 5_000  # maximum number of candles per page, over all symbols
_SHORTEST_PAGE = 20  # minimum page size per symbol, however many symbols there are
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between attempts to read while the database is unavailable
_LONGEST_REST_S = 0.25  # longest pause between two queries while notifications arrive
_LONGEST_LOOK_S = 120.0  # timeout of reading one page; after it the network is considered silent
_RARE_PAUSE_S = 30.0  # longest pause between attempts to listen, for example if the server refuses it


def follow_candles(
    database: Database,
    symbols: Sequence[str],
    interval: int,
    start: datetime | Mapping[str, datetime] | None,
    timing: Timing = _DEFAULT,
    gaps: GapsChoice = "ignore",
) -> AsyncGenerator[HistoricalCandle, None]:
    """Closed candles as they are stored. Arguments are checked at once; the first query runs when iteration begins.

    Args:
        gaps: See :mod:`kraken_history.reading.follow_gaps`.

    Raises:
        UsageError: An argument is not valid.
    """
    interval, gaps = checked_interval(interval), checked_gaps(gaps)
    names = checked_list("symbols", [symbols] if isinstance(symbols, str) else symbols, checked_name)
    return _Follower(database, interval, _starts(names, interval, start), timing, gaps).candles()


def _starts(
    names: Sequence[str], interval: int, start: datetime | Mapping[str, datetime] | None
) -> dict[str, datetime | None]:
    width = width_of(interval)
    given = start if isinstance(start, Mapping) else dict.fromkeys(names, start)
    for name in given:
        if name not in names:
            raise InvalidChoice("a symbol of start", name, names)
    return {name: None if (moment := given.get(name)) is None else bucket_end(as_utc(moment), width) for name in names}


class _Cursor:
    """How far the candles of one symbol have been emitted.

    Attributes:
        rank: The symbol's index among the symbols.
        position: Open time of the next candle to search for; None before the first query.
        given_until: End of the last emitted candle. The time from it to the position was empty.
        stored_at: The last value of :attr:`Settled.stored_at`.
        hears_all: True if any notification may matter.
        heard_of: The newest minute that a notification named, in unix seconds.
    """

    __slots__ = ("given_until", "heard_of", "hears_all", "position", "rank", "stored_at", "width")

    def __init__(self, rank: int, start: datetime | None, width: timedelta) -> None:
        self.rank = rank
        self.width = width
        self.position = self.given_until = start
        self.stored_at: datetime | None = None
        self.hears_all = True
        self.heard_of = 0.0

    def due(self, settled: Settled, patience: timedelta) -> tuple[datetime, datetime] | None:
        """The span of closed candles that was not searched since data was last stored; None if there is none."""
        closes = bucket_start(settled.now if settled.until is None else settled.until, self.width)
        if self.position is None or self.given_until is None:
            self.position = self.given_until = closes
        self.hears_all = settled.until is None or not settled.has_trades
        if settled.stored_at != self.stored_at:
            self.stored_at = settled.stored_at
            # The new data may lie in time that was empty before: search again from the last emitted candle. If the
            # symbol has trades, search back no further than the patience; a download may arrive at any time.
            oldest = bucket_start(settled.now - patience, self.width) if settled.has_trades else self.given_until
            self.position = min(self.position, max(self.given_until, oldest))
        if settled.until is None or settled.oldest is None:
            return None
        low = max(self.position, bucket_start(settled.oldest, self.width))
        return (low, closes) if low < closes else None

    def may_close(self, first_minute: float, last_minute: float) -> bool:
        """True if a write that touched these minutes (unix seconds) may have closed the next candle.

        While missing trades keep the candle open, another write to the newest minute does not close it. A write
        further back may have stored the missing trades.
        """
        before, self.heard_of = self.heard_of, max(self.heard_of, last_minute)
        if self.hears_all or self.position is None:
            return True
        is_new = last_minute > before or first_minute < before
        return is_new and self.heard_of >= (self.position + self.width).timestamp()


class _OneConnection(Database):
    """Reads through one connection: replicas lag by different times, so one page must come from a single replica."""

    def __init__(self, database: Database, connection: Connection) -> None:
        super().__init__(database.url, 0, 1)
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        yield self._connection  # the owner of the connection translates its errors


class _Follower:
    def __init__(
        self,
        database: Database,
        interval: int,
        starts: Mapping[str, datetime | None],
        timing: Timing,
        gaps: GapsChoice = "ignore",
    ) -> None:
        self._database = database
        self._interval = interval
        self._width = width_of(interval)
        self._timing = timing
        self._refusal = Refusal(interval, timedelta(seconds=timing.grace_s)) if gaps == "raise" else None
        self._flat = FlatCandles(interval) if gaps == "pad" else None
        self._cursors = {
            symbol: _Cursor(rank, start, self._width) for rank, (symbol, start) in enumerate(starts.items())
        }
        self._not_found = list(starts)
        self._page = max(_PAGE_CANDLES // len(starts), _SHORTEST_PAGE)
        self._buckets = self._page
        self._woken = asyncio.Event()

    async def candles(self) -> AsyncGenerator[HistoricalCandle, None]:
        """All candles, without end."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                looked_at = time.monotonic()
                page = await self._next_page()
                for candle in page or ():
                    self._cursors[candle.symbol].given_until = candle.timestamp + self._width
                    yield candle
                if page is None:
                    await self._wait(looked_at)
        finally:
            await end(listening)

    async def _next_page(self) -> list[HistoricalCandle] | None:
        """The next closed candles, by close time; empty for a quiet stretch; None if no closed candles are due.

        If the database is unavailable, waits for it.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(_LONGEST_LOOK_S):
                    return await self._read_page()
            except (HistoryError, asyncpg.PostgresError, TimeoutError) as error:
                if not is_transient(error):
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _read_page(self) -> list[HistoricalCandle] | None:
        async with self._database.connection() as connection:
            database = _OneConnection(self._database, connection)
            if self._not_found:
                self._find_names(await fetch_stored_symbols(connection))
            due = await self._find_due(database)
            if not due:
                return None
            start = min(low for low, _ in due.values())
            longest = (max(high for _, high in due.values()) - start) // self._width
            cut = start + min(self._buckets, longest) * self._width
            gaps = await self._look_for_gaps(database, due, cut)
            found: list[HistoricalCandle] = []
            for symbol, (low, high) in due.items():
                if low < min(high, cut):
                    candles = await read_span(database, symbol, self._interval, (low, min(high, cut)), self._page)
                    found += candles
                    if len(candles) == self._page:
                        cut = candles[-1].timestamp + self._width
            if self._flat is not None:
                await self._flat.read_closes(database, due)
        if self._refusal is not None:
            cut = self._refusal.cut(gaps, self._in_order(found), cut)
        page = [candle for candle in found if candle.timestamp < cut]
        spans = {symbol: (low, max(low, min(high, cut))) for symbol, (low, high) in due.items()}
        if self._flat is not None:
            page = self._flat.pad(spans, page)
        for symbol, (_, reached) in spans.items():
            self._cursors[symbol].position = reached
        self._buckets = self._page if page else self._buckets * 4
        return self._in_order(page)

    async def _look_for_gaps(self, database: Database, due: Mapping[str, Span], cut: datetime) -> dict[str, Gaps]:
        """What is missing since the last candle that was given, by symbol; nothing unless gaps are refused."""
        if self._refusal is None:
            return {}
        since = {symbol: self._cursors[symbol].given_until or low for symbol, (low, _) in due.items()}
        return await self._refusal.look(
            database, {symbol: (since[symbol], min(high, cut)) for symbol, (_, high) in due.items()}
        )

    def _find_names(self, stored: Sequence[str]) -> None:
        """Resolve names to stored symbols. Names under which nothing is stored yet are tried again later."""
        found = {name: symbol for name in self._not_found if (symbol := find_symbol(name, stored)) is not None}
        self._not_found = [name for name in self._not_found if name not in found]
        for name, symbol in found.items():
            self._cursors.setdefault(symbol, self._cursors[name])
            if symbol != name:
                del self._cursors[name]

    async def _find_due(self, database: Database) -> dict[str, tuple[datetime, datetime]]:
        positions = {symbol: cursor.given_until for symbol, cursor in self._cursors.items()}
        patience = timedelta(seconds=self._timing.patience_s)
        due: dict[str, tuple[datetime, datetime]] = {}
        for settled in await read_settled(database, positions, self._width, self._timing):
            span = self._cursors[settled.symbol].due(settled, patience)
            if span is not None:
                due[settled.symbol] = span
        return due

    def _in_order(self, candles: Iterable[HistoricalCandle]) -> list[HistoricalCandle]:
        return sorted(candles, key=lambda candle: (candle.timestamp, self._cursors[candle.symbol].rank))

    async def _wait(self, looked_at: float) -> None:
        """Wait for a notification or the next poll. Frequent notifications do not cause equally frequent queries."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.poll_s):
                await self._woken.wait()
        rest_s = min(self._timing.poll_s / 20, _LONGEST_REST_S)
        await asyncio.sleep(max(0.0, looked_at + rest_s - time.monotonic()))
        self._woken.clear()

    async def _listen(self) -> None:
        """Listen for notifications whenever possible; without them the follower polls."""
        pause_s = _FIRST_PAUSE_S
        while True:
            with suppress(HistoryError, asyncpg.PostgresError, *UNAVAILABLE):
                if not await self._hear_until_lost():
                    return
                pause_s = _FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _RARE_PAUSE_S)

    async def _hear_until_lost(self) -> bool:
        """False if notifications cannot arrive at all, because a pooler answers."""
        connection = await self._database.connect()
        try:
            if is_pooled(connection):  # the session that would listen is another client's a moment later
                return False
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CANDLES_CHANNEL, self._hear)
            self._woken.set()  # earlier notifications were missed, so query once
            await lost.wait()
            return True
        finally:
            with suppress(asyncpg.PostgresError, *UNAVAILABLE):
                await connection.close(timeout=_LONGEST_PAUSE_S)

    def _hear(self, connection: Connection, pid: int, channel: str, payload: object) -> None:
        try:
            touched = _TOUCHED.decode(str(payload))
        except msgspec.DecodeError:  # any client may notify this channel; a query costs little
            self._woken.set()
            return
        for symbol, first_minute, last_minute in touched:
            cursor = self._cursors.get(symbol)
            if cursor is not None and cursor.may_close(first_minute, last_minute):
                self._woken.set()


_TOUCHED = msgspec.json.Decoder(list[tuple[str, int, int]])
