"""Every name of a symbol, in every read of the library: one answer, which is that of the symbol itself."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from kraken_history.backtests import BacktestRun, load_run
from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.clock import utc_now
from kraken_history.database.connections import create_pool
from kraken_history.errors import UnknownSymbol
from kraken_history.fetching.backfill import build_candles_from_trades, get_resume_point
from kraken_history.provider import HistoricalDataProvider
from tests.names.conftest import EVERY_NAME, MINUTE, SYMBOLS

HALF_HOUR = timedelta(minutes=30)
Read = Callable[[HistoricalDataProvider, str, datetime], Awaitable[Any]]


async def _first(records: AsyncGenerator[Any, None]) -> Any:
    try:
        return await anext(records)
    finally:
        await records.aclose()


# Every method that takes a symbol, as a function of it and of the end of half an hour.
READS: dict[str, Read] = {
    "get_candles": lambda p, name, end: p.get_candles(name, 1, end - HALF_HOUR, end, gaps="ignore"),
    "get_candles, a computed interval": lambda p, name, end: p.get_candles(
        name, 7, end - HALF_HOUR, end, gaps="ignore"
    ),
    "get_candles, raise": lambda p, name, end: p.get_candles(name, 1, end - HALF_HOUR, end, gaps="raise"),
    "get_candles, fill": lambda p, name, end: p.get_candles(name, 1, end - HALF_HOUR, end, gaps="fill"),
    "get_candles, as_of": lambda p, name, end: p.get_candles(name, 1, end - HALF_HOUR, end, as_of=utc_now()),
    "get_candles, as_of a time to come": lambda p, name, end: p.get_candles(
        name, 1, end - HALF_HOUR, end, as_of=end + HALF_HOUR
    ),
    "get_latest_candles": lambda p, name, end: p.get_latest_candles(name, 1, 3),
    "get_latest_candles, end": lambda p, name, end: p.get_latest_candles(name, 1, 3, end=end),
    "get_warmup_data": lambda p, name, end: p.get_warmup_data(name, 1, 3, gaps="ignore"),
    "get_warmup_data, end": lambda p, name, end: p.get_warmup_data(name, 1, 3, end=end, gaps="ignore"),
    "get_multi_timeframe_candles": lambda p, name, end: p.get_multi_timeframe_candles(name, end, [1, 5], gaps="ignore"),
    "replay_candles": lambda p, name, end: _first(p.replay_candles(name, 1, end - HALF_HOUR, end, 0, gaps="ignore")),
    "replay_trades": lambda p, name, end: _first(p.replay_trades(name, end - HALF_HOUR, end, 0, gaps="ignore")),
    "replay": lambda p, name, end: _first(
        p.replay([name], [1], end - HALF_HOUR, end, 0, with_trades=True, gaps="ignore")
    ),
    "get_trades": lambda p, name, end: p.get_trades(name, end - HALF_HOUR, end, gaps="ignore"),
    "get_trades_arrow": lambda p, name, end: p.get_trades_arrow(name, end - HALF_HOUR, end, gaps="ignore"),
    "get_trades_frame": lambda p, name, end: p.get_trades_frame(name, end - HALF_HOUR, end, gaps="ignore"),
    "follow_candles": lambda p, name, end: _first(p.follow_candles([name], 1, start=end - HALF_HOUR)),
    "follow_candles, start of each": lambda p, name, end: _first(
        p.follow_candles([name], 1, start={name: end - HALF_HOUR})
    ),
    "get_coverage": lambda p, name, end: p.get_coverage(name, end - HALF_HOUR, end),
    "get_coverage, by buckets": lambda p, name, end: p.get_coverage(name, end - HALF_HOUR, end, resolution=HALF_HOUR),
    "require_complete": lambda p, name, end: p.require_complete(name, end - HALF_HOUR, end),
    "verify": lambda p, name, end: p.verify([name], end - HALF_HOUR, end),
    "get_sync_status": lambda p, name, end: p.get_sync_status(name),
    "get_data_range": lambda p, name, end: p.get_data_range(name),
    "get_candles_arrow": lambda p, name, end: p.get_candles_arrow(name, 1, end - HALF_HOUR, end, gaps="ignore"),
    "get_candles_arrow, fill": lambda p, name, end: p.get_candles_arrow(name, 1, end - HALF_HOUR, end, gaps="fill"),
    "get_candles_frame": lambda p, name, end: p.get_candles_frame(name, 1, end - HALF_HOUR, end, gaps="raise"),
    "find_symbol": lambda p, name, end: p.find_symbol(name),
}
OTHERS = {
    "connect",
    "close",
    "get_symbols",
    "get_external_indicators",
    "health_check",
    "save_run",
    "list_runs",
    "load_run",
}


@pytest.fixture
async def provider(filled_url: str) -> AsyncIterator[HistoricalDataProvider]:
    async with HistoricalDataProvider(filled_url, pool_max_size=2) as provider:
        yield provider


@pytest.fixture
async def pool(filled_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(filled_url, min_size=1, max_size=1) as pool:
        yield pool


def plain(answer: Any) -> Any:
    """The answer in a form that can be compared: of a frame or a table, its rows."""
    for rows in ("to_dicts", "to_pylist"):
        if hasattr(answer, rows):
            return getattr(answer, rows)()
    return answer


def test_no_method_is_left_out() -> None:
    methods = {name for name in vars(HistoricalDataProvider) if not name.startswith("_")}

    assert methods == OTHERS | {name.partition(",")[0] for name in READS}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
async def test_a_read_gives_the_same_under_every_name(
    read: str, symbol: str, name: str, provider: HistoricalDataProvider, end: datetime
) -> None:
    answer = plain(await READS[read](provider, name, end))

    assert answer
    assert answer == plain(await READS[read](provider, symbol, end))
    assert symbol in str(answer) or read in ("get_data_range", "require_complete")


BLOCKING: dict[str, Callable[[BlockingHistoricalDataProvider, str, datetime], Any]] = {
    "get_candles": lambda p, name, end: p.get_candles(name, 1, end - HALF_HOUR, end, gaps="ignore"),
    "get_latest_candles": lambda p, name, end: p.get_latest_candles(name, 1, 3),
    "get_warmup_data": lambda p, name, end: p.get_warmup_data(name, 1, 3, gaps="ignore"),
    "get_multi_timeframe_candles": lambda p, name, end: p.get_multi_timeframe_candles(name, end, [1, 5], gaps="ignore"),
    "replay_candles": lambda p, name, end: next(p.replay_candles(name, 1, end - HALF_HOUR, end, 0, gaps="ignore")),
    "replay_trades": lambda p, name, end: next(p.replay_trades(name, end - HALF_HOUR, end, 0, gaps="ignore")),
    "replay": lambda p, name, end: next(p.replay([name], [1], end - HALF_HOUR, end, 0, gaps="ignore")),
    "get_trades": lambda p, name, end: p.get_trades(name, end - HALF_HOUR, end, gaps="ignore"),
    "get_trades_arrow": lambda p, name, end: p.get_trades_arrow(name, end - HALF_HOUR, end, gaps="ignore"),
    "get_trades_frame": lambda p, name, end: p.get_trades_frame(name, end - HALF_HOUR, end, gaps="ignore"),
    "follow_candles": lambda p, name, end: next(p.follow_candles([name], 1, start=end - HALF_HOUR)),
    "get_coverage": lambda p, name, end: p.get_coverage(name, end - HALF_HOUR, end),
    "get_coverage, by buckets": lambda p, name, end: p.get_coverage(name, end - HALF_HOUR, end, resolution=HALF_HOUR),
    "require_complete": lambda p, name, end: p.require_complete(name, end - HALF_HOUR, end),
    "verify": lambda p, name, end: p.verify([name], end - HALF_HOUR, end),
    "get_sync_status": lambda p, name, end: p.get_sync_status(name),
    "get_data_range": lambda p, name, end: p.get_data_range(name),
    "get_candles_arrow": lambda p, name, end: p.get_candles_arrow(name, 1, end - HALF_HOUR, end, gaps="ignore"),
    "get_candles_frame": lambda p, name, end: p.get_candles_frame(name, 1, end - HALF_HOUR, end, gaps="ignore"),
    "find_symbol": lambda p, name, end: p.find_symbol(name),
}


@pytest.fixture(scope="module")
def blocking(filled_url: str) -> Iterator[BlockingHistoricalDataProvider]:
    with BlockingHistoricalDataProvider(filled_url, pool_min_size=1) as provider:
        yield provider


@pytest.mark.parametrize("read", BLOCKING)
@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
def test_a_blocking_read_gives_the_same_under_every_name(
    read: str, symbol: str, name: str, blocking: BlockingHistoricalDataProvider, end: datetime
) -> None:
    answer = plain(BLOCKING[read](blocking, name, end))

    assert answer
    assert answer == plain(BLOCKING[read](blocking, symbol, end))
    assert symbol in str(answer) or read in ("get_data_range", "require_complete")


def test_no_blocking_read_is_left_out() -> None:
    assert {name.partition(",")[0] for name in BLOCKING} == {name.partition(",")[0] for name in READS}


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
async def test_a_run_of_a_backtest_is_kept_under_the_symbol(
    symbol: str, name: str, provider: HistoricalDataProvider, pool: asyncpg.Pool, end: datetime
) -> None:
    run = BacktestRun(
        strategy_name="names", symbols=(name, "MY/BASKET OF 5"), start_time=end - HALF_HOUR, end_time=end,
        parameters={}, metrics={},
    )  # fmt: skip

    saved = await load_run(pool, await provider.save_run(run))

    assert saved.symbols == (symbol, "MY/BASKET OF 5")


@pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
async def test_functions_of_a_backfill_take_every_name(
    symbol: str, name: str, pool: asyncpg.Pool, end: datetime
) -> None:
    await pool.execute("UPDATE data_sync_status SET last_kraken_since = 17 WHERE data_type = 'trades'")
    await pool.execute(
        "UPDATE candles SET trade_count = 0 WHERE symbol = $1 AND timestamp >= $2 AND timestamp < $3",
        symbol, end - 30 * MINUTE, end,
    )  # fmt: skip

    assert await get_resume_point(pool, name) == 17
    assert await build_candles_from_trades(pool, name, end - 30 * MINUTE, end) > 0


async def test_one_symbol_under_two_names_is_read_once(provider: HistoricalDataProvider, end: datetime) -> None:
    names = ["XBTUSDT", "btc/usdt", "BTC/USDT"]
    replayed = [record async for record in provider.replay(names, [1], end - HALF_HOUR, end, 0, gaps="ignore")]

    assert replayed == await provider.get_candles("BTC/USDT", 1, end - HALF_HOUR, end, gaps="ignore")


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", ["", "BTC", "BTC/", "BTC-USDT", "A/B/C"])
async def test_a_text_that_is_no_name_is_refused(
    read: str, name: str, provider: HistoricalDataProvider, end: datetime
) -> None:
    with pytest.raises(UnknownSymbol) as refusal:
        await READS[read](provider, name, end)

    assert str(refusal.value) == f"expected BASE/QUOTE, such as BTC/USDT, got {name!r}"


@pytest.mark.parametrize("read", [read for read in READS if not read.startswith(("follow", "get_sync"))])
@pytest.mark.parametrize("name", ["ETH/USDT", "XBTEUR", "eth/usdt"])
async def test_a_symbol_that_is_not_stored_is_told_which_are_and_nothing_of_kraken(
    read: str, name: str, provider: HistoricalDataProvider, end: datetime
) -> None:
    with pytest.raises(UnknownSymbol) as refusal:
        await READS[read](provider, name, end)

    held = ", ".join(sorted(SYMBOLS))
    assert str(refusal.value) == f"the database holds nothing of {name!r}: expected one of {held}"
    assert (refusal.value.symbol, refusal.value.known) == (name, tuple(sorted(SYMBOLS)))
