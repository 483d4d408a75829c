"""The public API as its users see it: never run, but checked with mypy."""

from collections.abc import AsyncGenerator, Generator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, assert_type
from uuid import UUID

import pandas
import polars
import pyarrow

from kraken_history import (
    BacktestRun,
    BlockingHistoricalDataProvider,
    Coverage,
    CoverageBuckets,
    CoverageError,
    CoveredSpan,
    DataRange,
    EquityPoint,
    ExternalIndicator,
    Health,
    HistoricalCandle,
    HistoricalDataProvider,
    HistoricalTrade,
    HistoryError,
    InvalidNumber,
    RunSummary,
    SavedRun,
    SyncStatus,
    TimeRange,
    UnknownRun,
    UnknownSymbol,
    UsageError,
    Verification,
)

SYMBOL = "BTC/USDT"


async def reads(start: datetime, end: datetime) -> None:
    """All that is awaited."""
    async with HistoricalDataProvider("postgresql://", pool_min_size=1, pool_max_size=4, archive="/data") as history:
        assert_type(history, HistoricalDataProvider)
        await history.connect()
        assert_type(await history.get_candles(SYMBOL, 1, start, end), list[HistoricalCandle])
        assert_type(await history.get_candles(SYMBOL, 1, start, end, 10, gaps="pad"), list[HistoricalCandle])
        assert_type(await history.get_candles(SYMBOL, 1, start, end, as_of=end), list[HistoricalCandle])
        assert_type(await history.get_latest_candles(SYMBOL, 1, 10, end=end), list[HistoricalCandle])
        assert_type(await history.get_warmup_data(SYMBOL, 1, 10, end=end, grace_s=5), list[HistoricalCandle])
        assert_type(
            await history.get_multi_timeframe_candles(SYMBOL, end, [1, 45], lookback=9),
            dict[int, list[HistoricalCandle]],
        )
        assert_type(await history.get_trades(SYMBOL, start, end, limit=10), list[HistoricalTrade])
        assert_type(await history.get_coverage(SYMBOL, start, end), Coverage)
        assert_type(await history.get_coverage(SYMBOL, start, end, resolution=timedelta(days=1)), CoverageBuckets)
        assert_type(await history.require_complete(SYMBOL, start, end), datetime)
        assert_type(await history.verify([SYMBOL], start, end), Verification)
        assert_type(await history.get_candles_arrow(SYMBOL, 1, start, end, numbers="float"), pyarrow.Table)
        assert_type(await history.get_candles_arrow(SYMBOL, 1, start, end, gaps="pad"), pyarrow.Table)
        assert_type(await history.get_trades_arrow(SYMBOL, start, end, numbers="float"), pyarrow.Table)
        assert_type(await history.get_trades_frame(SYMBOL, start, end), polars.DataFrame)
        assert_type(await history.get_trades_frame(SYMBOL, start, end, as_="pandas"), pandas.DataFrame)
        assert_type(await history.get_candles_frame(SYMBOL, 1, start, end), polars.DataFrame)
        assert_type(await history.get_candles_frame(SYMBOL, 1, start, end, gaps="pad"), polars.DataFrame)
        assert_type(await history.get_candles_frame(SYMBOL, 1, start, end, as_="polars"), polars.DataFrame)
        assert_type(await history.get_candles_frame(SYMBOL, 1, start, end, as_="pandas"), pandas.DataFrame)
        assert_type(await history.get_candles_frame(SYMBOL, 1, start, end, as_="pandas", gaps="pad"), pandas.DataFrame)
        assert_type(await history.find_symbol("XBTUSDT"), str)
        assert_type(await history.get_symbols(), list[str])
        assert_type(await history.get_sync_status(SYMBOL), SyncStatus | None)
        assert_type(await history.get_data_range(SYMBOL), DataRange)
        assert_type(await history.get_external_indicators("fear_greed", start, end), list[ExternalIndicator])
        assert_type(await history.health_check(), Health)
        await history.close()


async def iterations(history: HistoricalDataProvider, start: datetime, end: datetime) -> None:
    """All that is iterated over."""
    assert_type(history.replay_candles(SYMBOL, 1, start, end, speed=60), AsyncGenerator[HistoricalCandle, None])
    assert_type(history.replay_trades(SYMBOL, start, end), AsyncGenerator[HistoricalTrade, None])
    async for record in history.replay([SYMBOL], [1, 60], start, end, 0, with_trades=True):
        assert_type(record, HistoricalCandle | HistoricalTrade)
        if isinstance(record, HistoricalTrade):
            assert_type(record.side, Literal["buy", "sell"])
        else:
            assert_type(record.trade_count, int)
    async for candle in history.follow_candles([SYMBOL], 1, start={SYMBOL: start}):
        assert_type(candle, HistoricalCandle)


async def runs(history: HistoricalDataProvider, run: BacktestRun) -> None:
    """Runs of backtests."""
    assert_type(await history.save_run(run), UUID)
    assert_type(await history.list_runs("two averages", limit=10), list[RunSummary])
    assert_type(await history.load_run(UUID(int=1)), SavedRun)


def blocking_reads(start: datetime, end: datetime) -> None:
    """The same without ``await``."""
    with BlockingHistoricalDataProvider("postgresql://", pool_min_size=1, pool_max_size=4, archive="/data") as history:
        assert_type(history, BlockingHistoricalDataProvider)
        history.connect()
        assert_type(history.get_candles(SYMBOL, 1, start, end, 10, gaps="raise", as_of=end), list[HistoricalCandle])
        assert_type(history.get_latest_candles(SYMBOL, 1, 10, end=end), list[HistoricalCandle])
        assert_type(history.get_warmup_data(SYMBOL, 1, 10, end=end, patience_s=5), list[HistoricalCandle])
        assert_type(history.get_multi_timeframe_candles(SYMBOL, end), dict[int, list[HistoricalCandle]])
        assert_type(history.get_trades(SYMBOL, start, end, limit=10), list[HistoricalTrade])
        assert_type(history.get_coverage(SYMBOL, start, end), Coverage)
        assert_type(history.get_coverage(SYMBOL, start, end, 60, resolution=timedelta(hours=1)), CoverageBuckets)
        assert_type(history.require_complete(SYMBOL, start, end), datetime)
        assert_type(history.verify(), Verification)
        assert_type(history.get_candles_arrow(SYMBOL, 1, start, end, numbers="decimal"), pyarrow.Table)
        assert_type(history.get_trades_arrow(SYMBOL, start, end), pyarrow.Table)
        assert_type(history.get_trades_frame(SYMBOL, start, end), polars.DataFrame)
        assert_type(history.get_trades_frame(SYMBOL, start, end, as_="pandas"), pandas.DataFrame)
        assert_type(history.get_candles_frame(SYMBOL, 1, start, end), polars.DataFrame)
        assert_type(history.get_candles(SYMBOL, 1, start, end, gaps="fill"), list[HistoricalCandle])
        assert_type(history.get_candles_arrow(SYMBOL, 1, start, end, gaps="pad"), pyarrow.Table)
        assert_type(history.get_candles_frame(SYMBOL, 1, start, end, gaps="pad"), polars.DataFrame)
        assert_type(history.get_candles_frame(SYMBOL, 1, start, end, as_="pandas", gaps="pad"), pandas.DataFrame)
        assert_type(history.get_candles_frame(SYMBOL, 1, start, end, as_="pandas"), pandas.DataFrame)
        assert_type(history.find_symbol("XBTUSDT"), str)
        assert_type(history.get_symbols(), list[str])
        assert_type(history.get_sync_status(SYMBOL), SyncStatus | None)
        assert_type(history.get_data_range(SYMBOL), DataRange)
        assert_type(history.get_external_indicators("fear_greed", start, end), list[ExternalIndicator])
        assert_type(history.health_check(), Health)
        history.close()


def blocking_iterations(history: BlockingHistoricalDataProvider, start: datetime, end: datetime) -> None:
    """Generators, which can be closed."""
    assert_type(history.replay_candles(SYMBOL, 1, start, end), Generator[HistoricalCandle, None, None])
    history.replay_trades(SYMBOL, start, end, speed=0).close()
    for record in history.replay([SYMBOL], [1, 60], start, end, 0, with_trades=True):
        assert_type(record, HistoricalCandle | HistoricalTrade)
    for candle in history.follow_candles([SYMBOL], 1, start=start, poll_s=1):
        assert_type(candle, HistoricalCandle)


def blocking_runs(history: BlockingHistoricalDataProvider, run: BacktestRun) -> None:
    """Runs of backtests."""
    assert_type(history.save_run(run), UUID)
    assert_type(history.list_runs("two averages", limit=10), list[RunSummary])
    assert_type(history.load_run(UUID(int=1)), SavedRun)


def records(candle: HistoricalCandle, trade: HistoricalTrade, point: EquityPoint, run: SavedRun) -> None:
    """What is in them."""
    assert_type(candle.timestamp, datetime)
    assert_type(candle.close, Decimal)
    assert_type(candle.typical_price, Decimal)
    assert_type(candle.is_made_up, bool)
    assert_type(trade.price * trade.volume, Decimal)
    assert_type(point.equity, Decimal)
    assert_type(run.created_at, datetime)


def answers(coverage: Coverage, span: CoveredSpan, range_: DataRange, health: Health, status: SyncStatus) -> None:
    """What is in them."""
    assert_type(coverage.missing, list[TimeRange])
    assert_type(coverage.is_complete, bool)
    assert_type(coverage.refused[0].timestamp, datetime | None)
    assert_type(coverage.unreachable[0].first_id, int)
    assert_type(span.duration, timedelta)
    assert_type(range_["oldest"], datetime | None)
    assert_type(health.latency_s, float)
    assert_type(status.missing_trades, int)


def errors(error: CoverageError | UnknownSymbol | InvalidNumber | UnknownRun) -> None:
    """Each with what was wrong as data."""
    base: HistoryError = error
    assert str(base)
    match error:
        case CoverageError():
            assert_type(error.gaps, tuple[TimeRange, ...])
        case UnknownSymbol():
            assert_type(error.symbol, str)
        case _:
            usage: UsageError = error
            assert str(usage)
