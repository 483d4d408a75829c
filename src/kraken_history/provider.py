"""Reading the history: what a strategy uses. Needs asyncpg and msgspec only; columnar reads, the extra ``arrow``."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload
from uuid import UUID

import asyncpg

from kraken_history import backtests
from kraken_history.arguments import checked_list
from kraken_history.backtests import BacktestRun, RunSummary, SavedRun
from kraken_history.database.connections import Connection
from kraken_history.errors import UsageError
from kraken_history.intervals import VIEWS, as_utc, checked_interval
from kraken_history.reading import as_of as knowledge
from kraken_history.reading import (
    columns,
    coverage,
    following,
    indicators,
    missing,
    replay,
    status,
    strategy_reads,
    trade_columns,
    trades,
    verification,
)
from kraken_history.reading.coverage import Coverage, CoverageBuckets
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import GapsChoice, TradeGapsChoice
from kraken_history.reading.names import read_symbol, read_symbols
from kraken_history.reading.settling import Timing
from kraken_history.reading.status import DataRange, Health, SyncStatus
from kraken_history.reading.verification import Verification
from kraken_history.records import ExternalIndicator, HistoricalCandle, HistoricalTrade

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

__all__ = [
    "VIEWS",
    "Coverage",
    "DataRange",
    "GapsChoice",
    "Health",
    "HistoricalDataProvider",
    "SyncStatus",
    "TradeGapsChoice",
    "Verification",
]

TIMEFRAMES = (1, 5, 15, 60, 240)
"""The intervals that :meth:`HistoricalDataProvider.get_multi_timeframe_candles` reads by default, in minutes."""


class HistoricalDataProvider:
    """Reads one database; ``async with`` opens and closes its connections, as ``connect`` and ``close`` do.

    A symbol may be given under any of its names: ours, ``BTC/USDT``, which is the quickest; any of Kraken's,
    ``XBT/USDT``, ``XBTUSDT``, ``XXBTZUSD``; without the slash, ``BTCUSDT``; and in upper or lower case, where the
    letters are those of one stored symbol only. Records have our name, which :meth:`find_symbol` returns.

    Intervals are in minutes. The intervals of :data:`VIEWS` are stored. Any other whole number of minutes up to a year
    is computed from the longest of them that divides it. Candles of all intervals begin at whole multiples of their
    length since a Monday at midnight UTC.

    A read with the end ``T`` depends on no trade at or after ``T``: a candle that is not closed at ``T`` is left out.
    If ``T`` is in the future and gaps are not refused, the candle that is still running is returned as it stands. To
    leave it out, end with ``datetime.now(UTC)``.

    Reads take ``gaps``, what to do if part of the history that they need is missing. ``raise``, the default of all
    reads of a range, raises CoverageError: a backtest over a hole must not look like one without. ``ignore`` returns
    what is stored. ``pad``, for candles, makes up a flat candle at the last close for every bucket without one, quiet
    or missing; such candles have ``is_made_up``; ``fill`` is an older name of it. Reads of what is newest,
    :meth:`get_latest_candles` and :meth:`follow_candles`, have the default ``ignore``.

    With ``raise``, a range that ends at the present, or later, ends where history is settled: candles that may still
    get trades are left out, usually for less than a minute. See :mod:`kraken_history.reading.live_edge`.

    Every method may raise these errors, beside those that it documents:

    * :class:`~kraken_history.errors.ProviderClosed`: the provider is not open;
    * :class:`~kraken_history.errors.ServiceUnavailable`: the database is unavailable, or did not complete the
      statement; the same call may succeed later. On Linux a silent network is noticed after half a minute. To wait
      less, or on another system, read within ``asyncio.timeout``;
    * :class:`~kraken_history.errors.UnknownSymbol`: nothing of this symbol is stored;
    * :class:`~kraken_history.errors.UnknownInterval`, :class:`~kraken_history.errors.InvalidTime`,
      :class:`~kraken_history.errors.InvalidRange`, :class:`~kraken_history.errors.InvalidNumber`,
      :class:`~kraken_history.errors.InvalidChoice`: an argument is not valid; the error carries it. All of these are
      :class:`~kraken_history.errors.UsageError`.

    Args:
        db_url: ``postgresql://user:password@host:5432/name``; several hosts, comma between, are tried in turn, and
            ``?target_session_attrs=prefer-standby`` prefers a replica.
        pool_min_size, pool_max_size: Minimum number of open connections, and the maximum.
        archive: A folder, or ``s3://bucket/path``, that ``kraken-history archive`` wrote. One-minute candles and trades
            that are read as columns (:meth:`get_candles_arrow`, :meth:`get_candles_frame`, :meth:`get_trades_arrow`,
            :meth:`get_trades_frame`) then come from it, for months that have not changed since they were archived.
            What retention dropped of these is not missing. All other reads use the database only.
    """

    def __init__(
        self, db_url: str, pool_min_size: int = 2, pool_max_size: int = 10, *, archive: str | None = None
    ) -> None:
        self._database = Database(db_url, pool_min_size, pool_max_size, archive)

    async def connect(self) -> None:
        """Connect, unless that is done.

        Raises:
            UsageError: The URL is not valid.
            ServiceUnavailable: No database answers there.
            SchemaMismatch: The database is older or newer than this code.
        """
        await self._database.open()

    async def close(self) -> None:
        """Disconnect; may be called twice.

        Reads that run have five seconds to end, after which they raise ProviderClosed; those that wait for a
        connection raise it.
        """
        await self._database.close()

    async def __aenter__(self) -> "HistoricalDataProvider":
        """:meth:`connect`."""
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get_candles(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        limit: int | None = None,
        *,
        gaps: GapsChoice | None = None,
        as_of: datetime | None = None,
    ) -> list[HistoricalCandle]:
        """Candles that open at or after ``start`` and are closed at ``end``, oldest first.

        Buckets of time without a trade have no candle. With ``gaps="raise"``, candles that are not settled at the
        present are left out; otherwise, with an ``end`` in the future, the last candle may still be running.

        Args:
            limit: At most so many, the oldest of the range.
            gaps: ``raise``, ``ignore`` or ``pad``, as :class:`HistoricalDataProvider` describes. Default: ``raise``;
                with ``as_of``, ``ignore``.
            as_of: Candles as they were known at this instant; see :mod:`kraken_history.reading.as_of`.
                Not together with another choice of ``gaps``.

        Raises:
            CoverageError: With ``gaps="raise"``, part of the range is missing.
        """
        if as_of is not None:
            if gaps not in (None, "ignore"):
                raise UsageError(
                    "as_of: expected gaps='ignore', because the gaps of an earlier instant are not recorded"
                )
            return await knowledge.read_candles_as_of(self._database, symbol, interval, start, end, as_of, limit)
        return await strategy_reads.read_candles_over_gaps(
            self._database, symbol, interval, start, end, limit, gaps="raise" if gaps is None else gaps
        )

    async def get_latest_candles(
        self,
        symbol: str,
        interval: int,
        count: int,
        *,
        end: datetime | None = None,
        gaps: GapsChoice = "ignore",
    ) -> list[HistoricalCandle]:
        """The newest ``count`` candles, oldest of them first.

        Without ``end``, or with one in the future, the last one may still be running; with it, only candles that are
        closed then are counted.

        Args:
            gaps: With ``raise``, only settled candles count, and the time from the first of them up to ``end``, or the
                present, must be complete. With ``pad``, the candles are those of the newest ``count`` buckets.

        Raises:
            CoverageError: With ``gaps="raise"``, part of that time is missing.
        """
        return await strategy_reads.read_latest_over_gaps(self._database, symbol, interval, count, end, gaps)

    async def get_warmup_data(
        self,
        symbol: str,
        interval: int,
        periods: int,
        *,
        end: datetime | None = None,
        grace_s: float = 45.0,
        patience_s: float = 120.0,
        gaps: GapsChoice = "raise",
    ) -> list[HistoricalCandle]:
        """The newest ``periods`` closed candles, oldest first, to fill the indicators of a strategy that starts.

        Closed as :meth:`follow_candles` means it, so that following from the end of the last one joins without a
        seam. With ``end``, as for a backtest: those that are closed then by the time alone, so with one in the future
        the last may still be running.

        Args:
            grace_s, patience_s: As :meth:`follow_candles` takes them.
            gaps: As for :meth:`get_latest_candles`; without ``end``, the time up to where following begins must be
                complete, however long ago that is.

        Raises:
            CoverageError: With ``gaps="raise"``, part of that time is missing.
        """
        timing = Timing(grace_s=grace_s, patience_s=patience_s)
        return await strategy_reads.read_warmup(self._database, symbol, interval, periods, end, gaps, timing)

    async def get_multi_timeframe_candles(
        self,
        symbol: str,
        end: datetime,
        intervals: Sequence[int] = TIMEFRAMES,
        *,
        lookback: int = 100,
        gaps: GapsChoice = "raise",
    ) -> dict[int, list[HistoricalCandle]]:
        """By interval, the candles of the last ``lookback`` buckets that are closed at ``end``, oldest first.

        An ``end`` in the future is as for :meth:`get_candles`.

        Raises:
            CoverageError: With ``gaps="raise"``, part of these buckets is missing.
        """
        return {
            interval: await strategy_reads.read_lookback(self._database, symbol, interval, end, lookback, gaps)
            for interval in checked_list("intervals", intervals, checked_interval, may_be_empty=True)
        }

    def replay_candles(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        speed: float = 1.0,
        *,
        gaps: GapsChoice = "raise",
    ) -> AsyncGenerator[HistoricalCandle, None]:
        """The candles of :meth:`get_candles`, one by one, however many there are.

        They are read in pages, so memory does not grow with the range and no transaction stays open. To go
        on live, end with ``datetime.now(UTC)``, and follow from the end of the last candle (:meth:`follow_candles`).

        Args:
            speed: 1.0 is real time, 60.0 is a minute per second, 0 is as fast as possible. The pace is kept from
                the first candle on: time that the consumer takes shortens the pauses.
            gaps: With ``raise``, the whole range is checked before the first candle is given; afterwards only what
                retention drops meanwhile can raise. With ``pad``, candles are made up one by one, so a long gap takes
                no memory.

        Raises:
            CoverageError: With ``gaps="raise"``, part of the range is missing.
        """
        return replay.replay_candles(self._database, symbol, interval, start, end, speed, gaps)

    async def get_trades(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        limit: int | None = None,
        *,
        gaps: TradeGapsChoice = "raise",
    ) -> list[HistoricalTrade]:
        """Trades of ``[start, end)`` by time, and by id within one instant; at most ``limit``, the oldest first.

        Args:
            gaps: ``raise`` or ``ignore``. Time of which only candles are stored is missing for a read of trades. With
                ``raise``, trades that are not settled yet are left out, the newest one among them.

        Raises:
            CoverageError: With ``gaps="raise"``, trades of the range are missing; with ``limit``, before the last one.
        """
        return await trades.read_trades(self._database, symbol, start, end, limit, gaps)

    def replay_trades(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        speed: float = 1.0,
        *,
        gaps: TradeGapsChoice = "raise",
    ) -> AsyncGenerator[HistoricalTrade, None]:
        """The trades of :meth:`get_trades`, one by one, however many there are; ``speed`` as for candles.

        Raises:
            CoverageError: With ``gaps="raise"``, trades of the range are missing; before the first trade is given.
        """
        return replay.replay_trades(self._database, symbol, start, end, speed, gaps)

    def replay(
        self,
        symbols: Sequence[str],
        intervals: Sequence[int],
        start: datetime,
        end: datetime,
        speed: float = 1.0,
        *,
        with_trades: bool = False,
        gaps: GapsChoice = "raise",
    ) -> AsyncGenerator[HistoricalCandle | HistoricalTrade, None]:
        """Candles of several symbols and intervals, and their trades if asked for, in the order of becoming known.

        A candle becomes known when it closes: the hour that begins at 12:00 comes after the minute that begins at
        12:59, and before a trade at 13:00. What becomes known at once comes by interval, then in the order of
        ``symbols``. With trades, ``intervals`` may be empty. The pace is that of becoming known. An ``end`` in the
        future is as for :meth:`replay_candles`.

        Args:
            gaps: With ``raise``, the range of every symbol is checked before the first record, and all symbols end
                where the first of them is not settled. With ``pad``, candles are padded; trades are given as stored.

        Raises:
            CoverageError: With ``gaps="raise"``, part of the range is missing. It names every such symbol.
        """
        return replay.replay_merged(
            self._database, symbols, intervals, start, end, speed, with_trades=with_trades, gaps=gaps
        )

    def follow_candles(
        self,
        symbols: Sequence[str],
        interval: int,
        *,
        start: datetime | Mapping[str, datetime] | None = None,
        grace_s: float = 45.0,
        patience_s: float = 120.0,
        poll_s: float = 2.0,
        gaps: GapsChoice = "ignore",
    ) -> AsyncGenerator[HistoricalCandle, None]:
        """Closed candles as they are stored, each once, in order per symbol; never ends by itself.

        Waits for symbols that are not stored yet, and for a database that is unreachable. See
        :mod:`kraken_history.reading.settling` for when a candle is closed.

        Args:
            start: The first candle opens at or after this, for all symbols or for each; by default, the first that
                is not closed yet when the iteration begins.
            grace_s: How long after its end, in seconds, a candle of a symbol that went quiet is kept back for
                trades that are on their way. To be longer than the consumers' ``RECLAIM_AFTER_S`` (30) and five
                seconds, and than one of several stream shards lags behind another.
            patience_s: How long after its end a candle is kept back for trades that are known to be missing.
            poll_s: How often the database is asked while no notification comes.
            gaps: With ``raise``, a candle whose trades did not come within ``patience_s``, or that comes after time of
                which nothing is known, raises. With ``pad``, a bucket that closed without a candle gets a made-up one.
                See :mod:`kraken_history.reading.follow_gaps`.

        Raises:
            CoverageError: With ``gaps="raise"``, the next candle lacks trades, or comes after a gap.
        """
        timing = Timing(grace_s=grace_s, patience_s=patience_s, poll_s=poll_s)
        return following.follow_candles(self._database, symbols, interval, start, timing, gaps)

    @overload
    async def get_coverage(self, symbol: str, start: datetime, end: datetime, interval: int = 1) -> Coverage: ...

    @overload
    async def get_coverage(
        self, symbol: str, start: datetime, end: datetime, interval: int = 1, *, resolution: timedelta
    ) -> CoverageBuckets: ...

    @overload
    async def get_coverage(
        self, symbol: str, start: datetime, end: datetime, interval: int = 1, *, resolution: timedelta | None
    ) -> Coverage | CoverageBuckets: ...

    async def get_coverage(
        self, symbol: str, start: datetime, end: datetime, interval: int = 1, *, resolution: timedelta | None = None
    ) -> Coverage | CoverageBuckets:
        """Which part of ``[start, end)`` is proven complete, rests on the exchange's candles, is quiet, is missing.

        Args:
            interval: Minutes of the candles to be read. Time for which the exchange, or a download, gave only candles
                of a longer interval is ``exchange`` for intervals that can be made of these, and otherwise missing.
            resolution: Width of buckets, in whole minutes, from one minute to a year: returns the time of each kind per
                bucket, for example per day for a map, instead of the spans. Buckets are aligned as candles are, in UTC.
        """
        if resolution is None:
            return await coverage.read_coverage(self._database, symbol, as_utc(start), as_utc(end), interval)
        return await coverage.read_coverage_buckets(
            self._database, symbol, as_utc(start), as_utc(end), interval, resolution
        )

    async def require_complete(self, symbol: str, start: datetime, end: datetime, interval: int = 1) -> datetime:
        """Check candles of ``[start, end)`` as a read with ``gaps="raise"`` does, without reading them.

        Returns where the complete history ends: at ``end``, or at the present where it is not settled yet.

        Args:
            interval: Of the candles, in minutes. The exchange's hours and days may be there without their minutes.

        Raises:
            CoverageError: Part of the range is missing. Unlike ``get_coverage(...).missing``, its ``gaps`` leave out
                time in the future, and the last moments, of which nobody can know yet whether they are complete.
        """
        return await missing.check_complete(self._database, symbol, start, end, interval)

    async def verify(
        self, symbols: Sequence[str] | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> Verification:
        """Compare what is stored with what it was made from: see :func:`~kraken_history.reading.verification.verify`.

        Trades are recounted against the ledger, candles against their trades, and longer candles against shorter ones.
        It reads every row of the range, in windows of a day, and takes one connection of the pool meanwhile.

        Args:
            symbols: Any of their names; None for all.
            start, end: None for the beginning and the end of what is stored. They are widened to whole minutes.

        Raises:
            UnknownSymbol: The database holds nothing of a symbol.
        """
        return await verification.read_verification(self._database, symbols, start, end)

    async def get_candles_arrow(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        *,
        numbers: Literal["decimal", "float"] = "decimal",
        gaps: GapsChoice = "raise",
    ) -> "pyarrow.Table":
        """The candles of :meth:`get_candles` as columns of the same names. Needs the extra ``arrow``.

        ``timestamp`` is in microseconds and UTC, ``symbol`` a plain string.

        Args:
            numbers: ``decimal``: prices and volumes as decimal128(38, 18), exactly; ``float``: as float64, the
                nearest.
            gaps: As for :meth:`get_candles`. With ``pad``, and only then, there is one more column, the last:
                ``is_made_up``, a boolean.

        Raises:
            MissingExtra: The extra is not installed.
            UsageError: A number has too many digits for a decimal column.
            CoverageError: With ``gaps="raise"``, part of the range is missing.
        """
        return await columns.read_candles_arrow(self._database, symbol, interval, start, end, numbers, gaps)

    @overload
    async def get_candles_frame(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        *,
        as_: Literal["polars"] = ...,
        gaps: GapsChoice = ...,
    ) -> "polars.DataFrame": ...

    @overload
    async def get_candles_frame(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        *,
        as_: Literal["pandas"],
        gaps: GapsChoice = ...,
    ) -> "pandas.DataFrame": ...

    async def get_candles_frame(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        *,
        as_: Literal["polars", "pandas"] = "polars",
        gaps: GapsChoice = "raise",
    ) -> "polars.DataFrame | pandas.DataFrame":
        """The candles of :meth:`get_candles` as a frame with float64 columns. Needs the extra ``frames``.

        Polars has ``timestamp`` as a column; pandas has it as the index, in UTC.

        Args:
            gaps: As for :meth:`get_candles_arrow`.

        Raises:
            MissingExtra: The extra is not installed.
            CoverageError: With ``gaps="raise"``, part of the range is missing.
        """
        return await columns.read_candles_frame(self._database, symbol, interval, start, end, as_, gaps)

    async def get_trades_arrow(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        *,
        numbers: Literal["decimal", "float"] = "decimal",
        gaps: TradeGapsChoice = "raise",
    ) -> "pyarrow.Table":
        """The trades of :meth:`get_trades` as columns of the same names. Needs the extra ``arrow``.

        Args:
            numbers: As for :meth:`get_candles_arrow`: ``price`` and ``volume``.
            gaps: As for :meth:`get_trades`.

        Raises:
            CoverageError: With ``gaps="raise"``, trades of the range are missing.
            MissingExtra: The extra is not installed.
            UsageError: A number has too many digits for a decimal column.
        """
        return await trade_columns.read_trades_arrow(self._database, symbol, start, end, numbers, gaps)

    @overload
    async def get_trades_frame(
        self, symbol: str, start: datetime, end: datetime, *, as_: Literal["polars"] = ..., gaps: TradeGapsChoice = ...
    ) -> "polars.DataFrame": ...

    @overload
    async def get_trades_frame(
        self, symbol: str, start: datetime, end: datetime, *, as_: Literal["pandas"], gaps: TradeGapsChoice = ...
    ) -> "pandas.DataFrame": ...

    async def get_trades_frame(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        *,
        as_: Literal["polars", "pandas"] = "polars",
        gaps: TradeGapsChoice = "raise",
    ) -> "polars.DataFrame | pandas.DataFrame":
        """The trades of :meth:`get_trades` as a frame with float64 columns. Needs the extra ``frames``.

        Polars has ``timestamp`` as a column; pandas has it as the index, in UTC.

        Args:
            gaps: As for :meth:`get_trades`.

        Raises:
            CoverageError: With ``gaps="raise"``, trades of the range are missing.
            MissingExtra: The extra is not installed.
        """
        return await trade_columns.read_trades_frame(self._database, symbol, start, end, as_, gaps)

    async def find_symbol(self, name: str) -> str:
        """The symbol that the records of a read have, for any name that the read takes: ``XBTUSDT`` → ``BTC/USDT``.

        Raises:
            UnknownSymbol: Nothing is stored under this name, or it may mean several symbols that are stored.
        """
        return await read_symbol(self._database, name)

    async def get_symbols(self) -> list[str]:
        """The stored symbols, in alphabetical order."""
        return await read_symbols(self._database)

    async def get_sync_status(self, symbol: str) -> SyncStatus | None:
        """Counts and times of a symbol's stored records; None if nothing is stored."""
        return await status.read_sync_status(self._database, symbol)

    async def get_data_range(self, symbol: str) -> DataRange:
        """Which one-minute candles there are: ``oldest``, ``newest`` and ``total_candles``, as the ledger has them."""
        return await status.read_data_range(self._database, symbol)

    async def get_external_indicators(self, name: str, start: datetime, end: datetime) -> list[ExternalIndicator]:
        """The figures of ``[start, end)``, oldest first: of ``fear_greed`` or ``btc_dominance``.

        A figure has the time at which its source gave it, so none is known before it was.

        Raises:
            UnknownIndicator: No figure of this name was fetched.
        """
        return await indicators.read_indicators(self._database, name, start, end)

    async def health_check(self) -> Health:
        """The health of the database. Connects if necessary, and reports a failure instead of raising it."""
        return await status.check_health(self._database)

    async def save_run(self, run: BacktestRun) -> UUID:
        """Save a run of a backtest and return its id. A float that is not a number is stored as ``None``.

        Raises:
            UsageError: A part of the run cannot be stored; the message names the part.
        """
        async with self._runs() as connection:
            return await backtests.save_run(connection, run)

    async def list_runs(self, strategy_name: str | None = None, *, limit: int = 100) -> list[RunSummary]:
        """Saved runs, newest first; of one strategy, or of all; at most ``limit``, which is 1,000 at most."""
        async with self._runs() as connection:
            return await backtests.list_runs(connection, strategy_name, limit=limit)

    async def load_run(self, id_: UUID) -> SavedRun:
        """One saved run, whole.

        Raises:
            UnknownRun: There is none with this id.
        """
        async with self._runs() as connection:
            return await backtests.load_run(connection, id_)

    @asynccontextmanager
    async def _runs(self) -> AsyncIterator[Connection]:
        try:
            async with self._database.connection() as connection:
                yield connection
        except asyncpg.DataError as error:
            raise UsageError(f"the database cannot take this: {error}") from error
