"""Reading the history without ``async``: the provider in an event loop of its own, in one background thread."""

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload
from uuid import UUID

from msgspec import Struct

from kraken_history.backtests import BacktestRun, RunSummary, SavedRun
from kraken_history.errors import ProviderClosed
from kraken_history.provider import TIMEFRAMES, HistoricalDataProvider
from kraken_history.reading.coverage import Coverage, CoverageBuckets
from kraken_history.reading.gaps import GapsChoice, TradeGapsChoice
from kraken_history.reading.status import DataRange, Health, SyncStatus
from kraken_history.reading.verification import Verification
from kraken_history.records import ExternalIndicator, HistoricalCandle, HistoricalTrade

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

__all__ = ["BlockingHistoricalDataProvider"]

T = TypeVar("T")
C = TypeVar("C", bound=type)
Reading = asyncio.Task[None]

_READ_AHEAD = 1_000  # records that an iteration may be ahead of its consumer
_CLOSE_TIMEOUT_S = 5.0


def _documented(blocking: C) -> C:
    """Give methods without a docstring the provider's."""
    for name, method in vars(blocking).items():
        if not name.startswith("_") and not method.__doc__:
            method.__doc__ = getattr(HistoricalDataProvider, name).__doc__
    return blocking


@_documented
class BlockingHistoricalDataProvider:
    """The methods of :class:`~kraken_history.provider.HistoricalDataProvider`, with the same arguments and errors.

    ``with`` opens and closes it, as ``connect`` and ``close`` do. Each call waits for its result. It may be used
    where an event loop is running, as in a notebook, and by several threads at once. ``Ctrl-C`` cancels the call or
    the iteration that it interrupts; the provider stays open.

    A replay and ``follow_candles`` return a generator. It reads at most 1,000 records ahead of its consumer. It
    releases its resources when it ends, when its ``close`` is called, or when no reference to it remains, as after a
    ``break``.

    In a process that was forked off it is closed, and may be opened anew.

    Args:
        db_url, pool_min_size, pool_max_size, archive: As the provider's.
    """

    def __init__(
        self, db_url: str, pool_min_size: int = 2, pool_max_size: int = 10, *, archive: str | None = None
    ) -> None:
        self._new_provider: Callable[[], HistoricalDataProvider] = lambda: HistoricalDataProvider(
            db_url, pool_min_size, pool_max_size, archive=archive
        )
        self._provider = self._new_provider()
        # By process: one that a thread holds at a fork stays locked in the child.
        self._locks = {os.getpid(): threading.Lock()}
        self._background: _Background | None = None
        self._stop: Callable[[], object] = lambda: None

    def connect(self) -> None:
        self._start()
        self._run(self._provider.connect())

    def close(self) -> None:
        """Disconnect; may be called twice.

        Calls and iterations of other threads end with ProviderClosed.
        """
        self._stop()

    def __enter__(self) -> "BlockingHistoricalDataProvider":
        """:meth:`connect`."""
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_candles(
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
        return self._run(self._provider.get_candles(symbol, interval, start, end, limit, gaps=gaps, as_of=as_of))

    def get_latest_candles(
        self,
        symbol: str,
        interval: int,
        count: int,
        *,
        end: datetime | None = None,
        gaps: GapsChoice = "ignore",
    ) -> list[HistoricalCandle]:
        return self._run(self._provider.get_latest_candles(symbol, interval, count, end=end, gaps=gaps))

    def get_warmup_data(
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
        return self._run(
            self._provider.get_warmup_data(
                symbol, interval, periods, end=end, grace_s=grace_s, patience_s=patience_s, gaps=gaps
            )
        )

    def get_multi_timeframe_candles(
        self,
        symbol: str,
        end: datetime,
        intervals: Sequence[int] = TIMEFRAMES,
        *,
        lookback: int = 100,
        gaps: GapsChoice = "raise",
    ) -> dict[int, list[HistoricalCandle]]:
        return self._run(
            self._provider.get_multi_timeframe_candles(symbol, end, intervals, lookback=lookback, gaps=gaps)
        )

    def replay_candles(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        speed: float = 1.0,
        *,
        gaps: GapsChoice = "raise",
    ) -> Generator[HistoricalCandle, None, None]:
        return self._iterate(self._provider.replay_candles(symbol, interval, start, end, speed, gaps=gaps))

    def get_trades(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        limit: int | None = None,
        *,
        gaps: TradeGapsChoice = "raise",
    ) -> list[HistoricalTrade]:
        return self._run(self._provider.get_trades(symbol, start, end, limit, gaps=gaps))

    def replay_trades(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        speed: float = 1.0,
        *,
        gaps: TradeGapsChoice = "raise",
    ) -> Generator[HistoricalTrade, None, None]:
        return self._iterate(self._provider.replay_trades(symbol, start, end, speed, gaps=gaps))

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
    ) -> Generator[HistoricalCandle | HistoricalTrade, None, None]:
        return self._iterate(
            self._provider.replay(symbols, intervals, start, end, speed, with_trades=with_trades, gaps=gaps)
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
    ) -> Generator[HistoricalCandle, None, None]:
        return self._iterate(
            self._provider.follow_candles(
                symbols, interval, start=start, grace_s=grace_s, patience_s=patience_s, poll_s=poll_s, gaps=gaps
            )
        )

    @overload
    def get_coverage(self, symbol: str, start: datetime, end: datetime, interval: int = 1) -> Coverage: ...

    @overload
    def get_coverage(
        self, symbol: str, start: datetime, end: datetime, interval: int = 1, *, resolution: timedelta
    ) -> CoverageBuckets: ...

    @overload
    def get_coverage(
        self, symbol: str, start: datetime, end: datetime, interval: int = 1, *, resolution: timedelta | None
    ) -> Coverage | CoverageBuckets: ...

    def get_coverage(
        self, symbol: str, start: datetime, end: datetime, interval: int = 1, *, resolution: timedelta | None = None
    ) -> Coverage | CoverageBuckets:
        return self._run(self._provider.get_coverage(symbol, start, end, interval, resolution=resolution))

    def require_complete(self, symbol: str, start: datetime, end: datetime, interval: int = 1) -> datetime:
        return self._run(self._provider.require_complete(symbol, start, end, interval))

    def verify(
        self, symbols: Sequence[str] | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> Verification:
        return self._run(self._provider.verify(symbols, start, end))

    def get_candles_arrow(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        *,
        numbers: Literal["decimal", "float"] = "decimal",
        gaps: GapsChoice = "raise",
    ) -> "pyarrow.Table":
        return self._run(self._provider.get_candles_arrow(symbol, interval, start, end, numbers=numbers, gaps=gaps))

    @overload
    def get_candles_frame(
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
    def get_candles_frame(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        *,
        as_: Literal["pandas"],
        gaps: GapsChoice = ...,
    ) -> "pandas.DataFrame": ...

    def get_candles_frame(
        self,
        symbol: str,
        interval: int,
        start: datetime,
        end: datetime,
        *,
        as_: Literal["polars", "pandas"] = "polars",
        gaps: GapsChoice = "raise",
    ) -> "polars.DataFrame | pandas.DataFrame":
        reading: Coroutine[Any, Any, polars.DataFrame | pandas.DataFrame] = self._provider.get_candles_frame(
            symbol, interval, start, end, as_=as_, gaps=gaps
        )
        return self._run(reading)

    def get_trades_arrow(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        *,
        numbers: Literal["decimal", "float"] = "decimal",
        gaps: TradeGapsChoice = "raise",
    ) -> "pyarrow.Table":
        return self._run(self._provider.get_trades_arrow(symbol, start, end, numbers=numbers, gaps=gaps))

    @overload
    def get_trades_frame(
        self, symbol: str, start: datetime, end: datetime, *, as_: Literal["polars"] = ..., gaps: TradeGapsChoice = ...
    ) -> "polars.DataFrame": ...

    @overload
    def get_trades_frame(
        self, symbol: str, start: datetime, end: datetime, *, as_: Literal["pandas"], gaps: TradeGapsChoice = ...
    ) -> "pandas.DataFrame": ...

    def get_trades_frame(
        self,
        symbol: str,
        start: datetime,
        end: datetime,
        *,
        as_: Literal["polars", "pandas"] = "polars",
        gaps: TradeGapsChoice = "raise",
    ) -> "polars.DataFrame | pandas.DataFrame":
        reading: Coroutine[Any, Any, polars.DataFrame | pandas.DataFrame] = self._provider.get_trades_frame(
            symbol, start, end, as_=as_, gaps=gaps
        )
        return self._run(reading)

    def find_symbol(self, name: str) -> str:
        return self._run(self._provider.find_symbol(name))

    def get_symbols(self) -> list[str]:
        return self._run(self._provider.get_symbols())

    def get_sync_status(self, symbol: str) -> SyncStatus | None:
        return self._run(self._provider.get_sync_status(symbol))

    def get_data_range(self, symbol: str) -> DataRange:
        return self._run(self._provider.get_data_range(symbol))

    def get_external_indicators(self, name: str, start: datetime, end: datetime) -> list[ExternalIndicator]:
        return self._run(self._provider.get_external_indicators(name, start, end))

    def health_check(self) -> Health:
        self._start()
        return self._run(self._provider.health_check())

    def save_run(self, run: BacktestRun) -> UUID:
        return self._run(self._provider.save_run(run))

    def list_runs(self, strategy_name: str | None = None, *, limit: int = 100) -> list[RunSummary]:
        return self._run(self._provider.list_runs(strategy_name, limit=limit))

    def load_run(self, id_: UUID) -> SavedRun:
        return self._run(self._provider.load_run(id_))

    def _start(self) -> None:
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self._background is not None and self._background.is_open():
                return
            # A new provider, because the old one's connections belong to a loop that ended, or to another process.
            self._provider = self._new_provider()
            self._background = _Background(self._provider)
            self._stop = weakref.finalize(self, self._background.stop)  # which calls it once, at the latest on exit

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        background = self._background
        if background is None:
            coroutine.close()
            raise ProviderClosed
        return background.run(coroutine)

    def _iterate(self, records: AsyncIterator[T]) -> Generator[T, None, None]:
        background = self._background
        if background is None:
            raise ProviderClosed
        arrived: SimpleQueue[T | _End] = SimpleQueue()
        room = asyncio.Event()
        reading = background.run(_start_reading(records, arrived, room, background.readings))
        try:
            while not isinstance(record := background.wait_for(arrived), _End):
                if arrived.qsize() == _READ_AHEAD // 2:
                    background.call(room.set)
                yield record
            if record.error is not None:
                raise record.error
        finally:
            background.cancel(reading)


class _End(Struct, frozen=True):
    """What comes after the last record.

    Attributes:
        error: Why nothing more comes; None if that was all.
    """

    error: BaseException | None


async def _start_reading(
    records: AsyncIterator[T], arrived: "SimpleQueue[T | _End]", room: asyncio.Event, readings: set[Reading]
) -> Reading:
    def end(task: Reading) -> None:
        readings.discard(task)
        arrived.put(_End(ProviderClosed() if task.cancelled() else task.exception()))

    task = asyncio.create_task(_read(records, arrived, room))
    readings.add(task)
    task.add_done_callback(end)  # not a `finally` of the task: one that is cancelled before it began runs none
    return task


async def _read(records: AsyncIterator[T], arrived: "SimpleQueue[T | _End]", room: asyncio.Event) -> None:
    try:
        async for record in records:
            while arrived.qsize() >= _READ_AHEAD:
                room.clear()
                await room.wait()
            arrived.put(record)
    finally:
        if (close := getattr(records, "aclose", None)) is not None:
            await close()


async def _cancelled(reading: Reading) -> None:
    reading.cancel()
    await asyncio.wait([reading])


class _Background:
    """An event loop in a daemon thread, and the provider that lives there, until it is stopped.

    In a process that was forked off it is kept for ever, with its tasks: sockets, and the selector that watches them,
    are shared with the parent, and a task that is thrown away ends its work with them.

    Attributes:
        readings: The iterations that are not done.
    """

    _kept: ClassVar[set["_Background"]] = set()

    def __init__(self, provider: HistoricalDataProvider) -> None:
        self._provider = provider
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._lock = threading.RLock()  # reentrant: a garbage collection may stop us at any point
        self._is_stopped = False
        self.readings: set[Reading] = set()
        self._kept.add(self)
        self._thread = threading.Thread(target=self._live, name="kraken-history", daemon=True)
        self._thread.start()

    def is_of_this_process(self) -> bool:
        """False in a forked process: it has no threads of its parent, and its copies of locks keep their state."""
        return self._process == os.getpid()

    def is_open(self) -> bool:
        """False once it was stopped, and in a process that was forked off."""
        return not self._is_stopped and self.is_of_this_process()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end; what interrupts this thread cancels it.

        Raises:
            ProviderClosed: Before it was begun, or meanwhile.
        """
        future = self._submit(coroutine)
        try:
            return future.result()
        except CancelledError:
            raise ProviderClosed from None
        finally:
            future.cancel()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, unless that is over."""
        with suppress(ProviderClosed), self._letting_in():
            self._loop.call_soon_threadsafe(function)

    def wait_for(self, arrived: "SimpleQueue[T]") -> T:
        """What comes next from the loop.

        Raises:
            ProviderClosed: This process was forked off, and nothing comes here.
        """
        if not self.is_of_this_process():
            raise ProviderClosed
        return arrived.get()

    def cancel(self, reading: Reading) -> None:
        """Cancel, and wait until its resources are released."""
        if threading.current_thread() is self._thread:  # a garbage collection there ended the iteration
            reading.cancel()
            return
        with suppress(ProviderClosed):
            self.run(_cancelled(reading))

    def stop(self) -> None:
        """End everything that runs, then the loop and its thread."""
        if not self.is_open():
            return
        with self._lock:
            self.call(self._stop.set)
            self._is_stopped = True
        if threading.current_thread() is not self._thread:
            self._thread.join(3 * _CLOSE_TIMEOUT_S)

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            with self._letting_in():
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except ProviderClosed:
            coroutine.close()
            raise

    @contextmanager
    def _letting_in(self) -> Iterator[None]:
        """Hold the lock, so that what is let in is in the loop before it is told to stop, and is ended then.

        Raises:
            ProviderClosed: It is not open.
        """
        if not self.is_of_this_process():  # where a thread that stayed behind may hold the lock for ever
            raise ProviderClosed
        with self._lock:
            if self._is_stopped:
                raise ProviderClosed
            yield

    def _live(self) -> None:
        # Not asyncio.run: that ends with a thread more, which an interpreter that ends does not give.
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
            self._kept.discard(self)

    async def _serve(self) -> None:
        await self._stop.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_CLOSE_TIMEOUT_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._provider.close(), _CLOSE_TIMEOUT_S)
