"""Finds wanted time that is not covered, and fills it over REST.

A symbol's time is covered between its oldest and its newest trade, except for the holes in its ids, and where
Kraken was asked and had no trade. The wanted time is that from ``history_days`` ago until now.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from typing import TypedDict

import asyncpg
import msgspec
from msgspec import Struct

from kraken_history.clock import CLOCK_SLACK, Clock
from kraken_history.completeness.covered_time import (
    are_minutes_covered,
    cover_minutes,
    find_uncovered,
    last_known_before,
)
from kraken_history.completeness.gap_length import LONGEST_MIN_GAP_MINUTES, MIN_GAP_MINUTES
from kraken_history.completeness.hole_times import HoleSpan
from kraken_history.completeness.holes import find_due_holes, find_fetchable_holes
from kraken_history.database.connections import write_again
from kraken_history.errors import HistoryError, InvalidNumber, UsageError
from kraken_history.fetching.gap_tools import KRAKEN_REST_URL, FindPair, Tools, open_tools
from kraken_history.fetching.healing import heal, wanted_span
from kraken_history.fetching.pages import TapePage
from kraken_history.fetching.tape import SECOND_LOOK_S, TapeReader, Work
from kraken_history.kraken.client import KrakenRest, Limiter
from kraken_history.kraken.pairs import symbol_without_kraken
from kraken_history.kraken.resolver import CANNOT_BE_ASKED
from kraken_history.kraken.rest import TRADES_PAGE
from kraken_history.ledger import IdRange, IdRanges, neighbourhoods
from kraken_history.records import MINUTE, DataGap, floor_minute, unix_ns
from kraken_history.runtime import telemetry
from kraken_history.storing.aggregates import refresh_if_free
from kraken_history.storing.store import Store
from kraken_history.symbols import DEFAULT_SYMBOLS, Pair

_MOST_HOLES = 100  # runs of holes per symbol and pass, newest first

_log = telemetry.get_logger("gaps")


class GapSummary(TypedDict):
    """The outcome of filling gaps.

    ``candles_inserted`` counts minutes that had no candle before, whether Kraken's candle or the trades made one.
    ``trades_processed`` counts new trades.
    A gap that was detected and not filled remains. ``errors`` has the reason, unless the gap waits for the
    second request that proves ids absent.
    """

    gaps_detected: int
    gaps_filled: int
    candles_inserted: int
    trades_processed: int
    errors: list[str]


class Fetched(Struct, frozen=True):
    """The outcome of fetching forward in time.

    Attributes:
        is_done: True if there is nothing more to fetch.
    """

    trades: int
    is_done: bool


class GapFiller:
    """Detects and fills gaps of some symbols.

    With a URL it is used on its own, inside ``async with``, or between :meth:`start` and :meth:`stop`. Services pass
    their pool, store, client and look-up of pairs instead, which they open and close themselves.

    Args:
        database: ``postgresql://…``, or an open pool.
        find_pair: Finds the pair of a name, for example :meth:`kraken_history.kraken.resolver.Resolver.find`.
        symbols: Under any of their names.
        history_days: Days of history that are wanted.
        now: Kraken's clock; by default as its answers tell it.
        second_look_s: Seconds before a page in doubt is requested again.
        kraken_rest_url, limiter, max_connections: With a URL only, as :func:`open_tools` takes them.
    """

    def __init__(
        self,
        database: asyncpg.Pool | str,
        store: Store | None = None,
        rest: KrakenRest | None = None,
        find_pair: FindPair | None = None,
        *,
        symbols: Sequence[str] = DEFAULT_SYMBOLS,
        history_days: int = 30,
        now: Clock | None = None,
        second_look_s: float = SECOND_LOOK_S,
        kraken_rest_url: str = KRAKEN_REST_URL,
        limiter: Limiter | None = None,
        max_connections: int = 4,
    ) -> None:
        self._tools: Tools | None = None
        self._opening = partial(
            open_tools, kraken_rest_url=kraken_rest_url, limiter=limiter, max_connections=max_connections
        )
        self._db_url = database if isinstance(database, str) else None
        self._open = AsyncExitStack()
        if not isinstance(database, str):
            if store is None or rest is None or find_pair is None:
                raise TypeError("expected store, rest and find_pair beside a pool: give all of them, or a URL alone")
            self._tools = Tools(database, store, rest, find_pair)
        elif store is not None or rest is not None or find_pair is not None:
            raise TypeError(
                "expected a URL alone, got it with a store, rest or find_pair: give a pool, or leave them out"
            )
        self._symbols = symbols
        self._history_days = history_days
        self._given_now = now
        self._second_look_s = second_look_s

    async def start(self) -> None:
        """Open the database and the client, if they are not open.

        Raises:
            UsageError, ServiceUnavailable, SchemaMismatch: The database cannot be used.
        """
        if self._tools is None and self._db_url is not None:
            self._tools = await self._open.enter_async_context(self._opening(self._db_url))

    async def stop(self) -> None:
        """Close what :meth:`start` opened. It may be repeated, and started again."""
        if self._db_url is not None:
            self._tools = None
            await self._open.aclose()

    async def __aenter__(self) -> "GapFiller":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def _open_tools(self) -> Tools:
        if self._tools is None:
            raise UsageError("the gap filler is not open: use it inside `async with`, or between start() and stop()")
        return self._tools

    @property
    def _pool(self) -> asyncpg.Pool:
        return self._open_tools.pool

    @property
    def _store(self) -> Store:
        return self._open_tools.store

    @property
    def _rest(self) -> KrakenRest:
        return self._open_tools.rest

    @property
    def _find_pair(self) -> FindPair:
        return self._open_tools.find_pair

    def _now(self) -> datetime:
        return self._rest.clock.now() if self._given_now is None else self._given_now()

    async def detect_gaps(
        self, min_gap_minutes: float = MIN_GAP_MINUTES, *, live_ids: Mapping[str, int] | None = None
    ) -> list[DataGap]:
        """The gaps, by symbol and time: holes in the ids, and wanted time that is not covered.

        Ids that REST does not show are left out: nothing can be fetched for them.

        Args:
            min_gap_minutes: Shorter stretches of time do not count. Holes always count.
            live_ids: By symbol of a connected feed, the newest trade id that it has received. If that trade is
                stored, there is nothing to fetch after it.

        Raises:
            InvalidNumber: ``min_gap_minutes`` is negative, above :data:`LONGEST_MIN_GAP_MINUTES` or not a number.
        """
        if not 0 <= min_gap_minutes <= LONGEST_MIN_GAP_MINUTES:
            raise InvalidNumber("min_gap_minutes", min_gap_minutes, f"a number from 0 to {LONGEST_MIN_GAP_MINUTES}")
        now = self._now()
        symbols = await self._our_symbols()
        holes = await find_fetchable_holes(self._pool, symbols)
        gaps = [
            gap
            for symbol in symbols
            for _, gap in await self._spans(symbol, holes.get(symbol, IdRanges()), self._wanted_from(now))
        ]
        shortest = timedelta(minutes=min_gap_minutes)
        for found in await find_uncovered(self._pool, symbols, self._wanted_from(now), now):
            stretches = found.lasting(shortest, live_id=(live_ids or {}).get(found.symbol), now=now)
            gaps += [DataGap.between(found.symbol, "trades", stretch.start, stretch.end) for stretch in stretches]
        return sorted(gaps, key=lambda gap: (gap.symbol, gap.start_time))

    async def fill_gap_ohlc(self, gap: DataGap) -> int:
        """Store Kraken's own candles of a gap's closed minutes, with one call; return how many minutes were new.

        They stand in for the trades until those are fetched. Kraken returns only the latest 720 minutes;
        older minutes are not changed.

        Raises:
            UnknownSymbol, KrakenError, ServiceUnavailable, MalformedMessage: As the client raises them.
        """
        gap = await self._ours(gap)
        start = floor_minute(gap.start_time)
        page = await self._rest.fetch_ohlc_page(await self._pair_of(gap.symbol), start - MINUTE)
        candles = [candle for candle in page.candles if start <= candle.timestamp < gap.end_time]
        stored = await write_again(partial(self._store.write, candles=candles))
        await cover_minutes(self._pool, gap.symbol, [candle.timestamp for candle in candles])
        telemetry.FETCHED_PAGES.labels(symbol=gap.symbol, work="candles").inc()
        return stored.new_candles

    async def fill_gap_trades(self, gap: DataGap) -> int:
        """Fetch all missing trades of a gap; return how many were new.

        Raises:
            UnknownSymbol, KrakenError, ServiceUnavailable, MalformedMessage: As the client raises them. Fetched
                trades are stored; the rest of the gap remains.
        """
        tally = _Tally()
        await self._fill_trades(await self._ours(gap), tally)
        return tally.trades

    async def fill_all_gaps(
        self,
        max_concurrent: int = 3,
        *,
        min_gap_minutes: float = MIN_GAP_MINUTES,
        live_ids: Mapping[str, int] | None = None,
    ) -> GapSummary:
        """Detect all gaps and fill them, ``max_concurrent`` symbols at a time; failures are in the summary.

        For gaps under twelve hours, candles are stored first. Then the trades of every gap are fetched. A gap filler
        that was opened by URL refreshes the longer intervals as well; services leave that to the worker.
        """
        gaps = await self.detect_gaps(min_gap_minutes, live_ids=live_ids)
        tally = _Tally()
        free = asyncio.Semaphore(max_concurrent)

        async def fill(symbol: str) -> None:
            async with free:
                await self._fill_symbol([gap for gap in gaps if gap.symbol == symbol], tally, min_gap_minutes)

        async with asyncio.TaskGroup() as tasks:
            for symbol in {gap.symbol: None for gap in gaps}:
                tasks.create_task(fill(symbol))
        summary = GapSummary(
            gaps_detected=len(gaps),
            gaps_filled=tally.filled,
            candles_inserted=tally.candles,
            trades_processed=tally.trades,
            errors=tally.errors,
        )
        _log.info("gaps_filled", **summary)
        if self._db_url is not None and (tally.trades or tally.candles):
            await self.refresh_continuous_aggregates()
        return summary

    async def verify(self, min_gap_minutes: float = MIN_GAP_MINUTES) -> bool:
        """True if no gap is left: the wanted time of all symbols is covered, and no id is missing in it.

        `kraken-history verify` compares what is stored with the ledger; this compares the ledger with what is wanted.

        Raises:
            InvalidNumber: As :meth:`detect_gaps`.
        """
        return not await self.detect_gaps(max(min_gap_minutes, MIN_GAP_MINUTES))

    async def refresh_continuous_aggregates(self) -> None:
        """Refresh the longer intervals where one-minute candles changed, unless another process is doing so."""
        await refresh_if_free(self._pool, now=self._now())

    async def fetch_forward(self, gap: DataGap, *, max_pages: int, stops_at_hole: bool = False) -> Fetched:
        """Fetch a gap's trades from its beginning on; each page is stored before the next is requested.

        Args:
            stops_at_hole: Stop once the rest of the gap is a hole in the ids, which healing fetches.

        Raises:
            As :meth:`fill_gap_trades`.
        """
        tally = _Tally()
        is_done = await self._fetch_forward(gap, tally, max_pages, stops_at_hole=stops_at_hole)
        return Fetched(tally.trades, is_done)

    async def is_uncovered(self, gap: DataGap) -> bool:
        """True if some of the gap's time is uncovered, ignoring holes in the ids."""
        (found,) = await find_uncovered(self._pool, [gap.symbol], gap.start_time, gap.end_time)
        return bool(found.stretches)

    async def has_candles_of(self, gap: DataGap) -> bool:
        """True if Kraken's candles of the gap's closed minutes were stored before."""
        return await are_minutes_covered(self._pool, gap)

    async def _fill_symbol(self, gaps: Sequence[DataGap], tally: "_Tally", min_gap_minutes: float) -> None:
        for gap in gaps:
            if wants_candles(gap) and not await self.has_candles_of(gap):
                try:
                    candles = await self.fill_gap_ohlc(gap)
                    tally.candles += candles
                except _FAILURES as error:
                    tally.note(gap, error)
        for gap in reversed(gaps):  # the newest gap first
            try:
                await self._fill_trades(gap, tally)
                is_filled = not await self._remains(gap, min_gap_minutes)
                tally.filled += is_filled
            except _FAILURES as error:
                tally.note(gap, error)

    async def _fill_trades(self, gap: DataGap, tally: "_Tally") -> None:
        now = self._now()
        missing = (await find_due_holes(self._pool, now=now, symbols=[gap.symbol])).get(gap.symbol, IdRanges())
        for hole, span in await self._spans(gap.symbol, missing, self._wanted_from(now)):
            if _overlap(gap, span):
                await self._heal(gap.symbol, hole, unix_ns(span.start_time - CLOCK_SLACK), tally)
        if await self.is_uncovered(gap):
            await self._fetch_forward(gap, tally, None)

    async def _heal(self, symbol: str, hole: IdRange, since: int | None, tally: "_Tally") -> None:
        pair = await self._pair_of(symbol)
        while since is not None:
            healed = await heal(
                self._pool, self._store, self._rest, pair, hole,
                since=since, max_pages=1, now=self._given_now, second_look_s=self._second_look_s,
            )  # fmt: skip
            tally.trades += healed.stored
            tally.candles += healed.candles
            since = healed.next_since

    async def _fetch_forward(
        self, gap: DataGap, tally: "_Tally", max_pages: int | None, *, stops_at_hole: bool = False
    ) -> bool:
        reader = self._reader("gap", await self._pair_of(gap.symbol))
        known = await last_known_before(self._pool, gap.symbol, gap.start_time)
        cursor = unix_ns((gap.start_time if known is None else known) - CLOCK_SLACK)
        begins_with_a_trade = known is not None
        pages = 0
        while max_pages is None or pages < max_pages:
            page = await reader.read(
                cursor, until=gap.end_time, begins_with_a_trade=begins_with_a_trade, continues=pages > 0
            )
            written = await reader.store(page)
            tally.trades += written.new_trades
            tally.candles += written.new_candles
            page.check()
            pages += 1
            if not page.is_full or (page.covered and page.covered.end >= gap.end_time):
                return True
            if stops_at_hole and _is_hole_after(page, written.holes.get(gap.symbol, IdRanges())):
                return True
            page.check_advance()
            cursor, begins_with_a_trade = page.last, True
        return False

    def _reader(self, work: Work, pair: Pair) -> TapeReader:
        return TapeReader(
            self._pool, self._store, self._rest, pair, work=work, now=self._given_now, second_look_s=self._second_look_s
        )

    async def _our_symbols(self) -> list[str]:
        """Our symbols of the names. A name whose symbol is unknown stays as it is; the summary has the error.

        If Kraken does not answer for one name, it is not asked for the others.
        """
        symbols: dict[str, None] = {}
        is_asked = True
        for name in self._symbols:
            try:
                symbol = (await self._find_pair(name)).symbol if is_asked else symbol_without_kraken(name)
            except CANNOT_BE_ASKED:
                symbol, is_asked = symbol_without_kraken(name), False
            except HistoryError:
                symbol = None
            symbols[symbol or name] = None
        return list(symbols)

    async def _ours(self, gap: DataGap) -> DataGap:
        return msgspec.structs.replace(gap, symbol=(await self._find_pair(gap.symbol)).symbol)

    async def _pair_of(self, symbol: str) -> Pair:
        """The pair of a symbol, which must be in our spelling, because trades and coverage are stored under it."""
        pair = await self._find_pair(symbol)
        if pair.symbol != symbol:
            raise UsageError(f"expected the symbol {pair.symbol}, got {symbol}: use {pair.symbol}")
        return pair

    async def _spans(self, symbol: str, missing: IdRanges, wanted_from: datetime) -> list[tuple[IdRange, DataGap]]:
        """Runs of missing ids, each with its time."""
        found: list[tuple[IdRange, DataGap]] = []
        for hole in neighbourhoods(missing, within=TRADES_PAGE)[-_MOST_HOLES:]:
            span = await wanted_span(self._pool, symbol, hole, wanted_from=wanted_from)
            if span is not None:
                found.append((hole, _gap_of(symbol, span)))
        return found

    async def _remains(self, gap: DataGap, min_gap_minutes: float) -> bool:
        shortest = max(min_gap_minutes, MIN_GAP_MINUTES)  # a page is trusted only up to a few seconds ago
        return any(each.symbol == gap.symbol and _overlap(gap, each) for each in await self.detect_gaps(shortest))

    def _wanted_from(self, now: datetime) -> datetime:
        return now - timedelta(days=self._history_days)


class _Tally:
    """Totals of concurrent tasks, including those that fail.

    An addition must not contain an ``await``: additions of other tasks in the meantime would be lost.
    """

    def __init__(self) -> None:
        self.filled = self.candles = self.trades = 0
        self.errors: list[str] = []

    def note(self, gap: DataGap, error: BaseException) -> None:
        reason = str(error) or type(error).__name__
        self.errors.append(
            f"{gap.symbol} {gap.start_time:%Y-%m-%dT%H:%M:%SZ}/{gap.end_time:%Y-%m-%dT%H:%M:%SZ}: {reason}"
        )


_FAILURES = (HistoryError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


async def run_gap_filler(
    db_url: str,
    *,
    symbols: Sequence[str] = DEFAULT_SYMBOLS,
    history_days: int = 30,
    min_gap_minutes: float = MIN_GAP_MINUTES,
    max_concurrent: int = 3,
    kraken_rest_url: str = KRAKEN_REST_URL,
    limiter: Limiter | None = None,
    now: Clock | None = None,
) -> GapSummary:
    """Fill all gaps of a database, for a program that is about to use it. Needs no Redis.

    Args:
        symbols: Our symbols, such as ``BTC/USDT``, or any of Kraken's names of the same pairs.
        limiter: Spaces the calls; by default one second apart per pair, within this process.

    Raises:
        UsageError, ServiceUnavailable, SchemaMismatch: The database cannot be used. Failures of Kraken are in the
            summary instead.
    """
    filler = GapFiller(
        db_url,
        symbols=symbols,
        history_days=history_days,
        now=now,
        kraken_rest_url=kraken_rest_url,
        limiter=limiter,
        max_connections=max_concurrent + 1,
    )
    async with filler:
        return await filler.fill_all_gaps(max_concurrent, min_gap_minutes=min_gap_minutes)


def wants_candles(gap: DataGap) -> bool:
    """True if OHLC can span the gap, and the gap is long enough that its candles are worth a call."""
    return gap.is_small and gap.candles_needed >= 1


def _gap_of(symbol: str, span: HoleSpan) -> DataGap:
    return DataGap.between(symbol, "trades", span.start, max(span.end, span.start + CLOCK_SLACK))


def _overlap(one: DataGap, other: DataGap) -> bool:
    return one.start_time < other.end_time and other.start_time < one.end_time


def _is_hole_after(page: TapePage, holes: IdRanges) -> bool:
    return bool(page.trades) and max(trade.id for trade in page.trades) + 1 in holes
