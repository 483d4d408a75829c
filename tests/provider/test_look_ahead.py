"""Looking ahead is what makes a backtest lie: what is read for an end depends on no trade at or after it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kraken_history.database.connections import create_pool
from kraken_history.intervals import VIEWS
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.support.servers import DatabaseServer

MONDAY = datetime(2025, 11, 10, tzinfo=UTC)
SPAN = timedelta(days=15)
SYMBOL = "BTC/USDT"
INTERVALS = (*VIEWS, 3, 45, 120, 20160)

_moments = st.integers(0, SPAN // timedelta(seconds=30)).map(lambda n: MONDAY + n * timedelta(seconds=30))
_figures = st.integers(1, 10**6).map(lambda n: Decimal(n).scaleb(-4))
_trades = st.builds(
    HistoricalTrade,
    st.integers(1, 500),
    st.just(SYMBOL),
    _moments,
    _figures,
    _figures,
    st.just("buy"),
    st.just("limit"),
)


async def answers(provider: HistoricalDataProvider, interval: int, end: datetime) -> dict[str, object]:
    """What every read that takes an end returns for it."""
    start = MONDAY - timedelta(days=1)
    ask = (SYMBOL, interval, start, end)
    arrow = await provider.get_candles_arrow(*ask, gaps="ignore")
    floats = await provider.get_candles_arrow(*ask, numbers="float", gaps="ignore")
    frame = await provider.get_candles_frame(*ask, gaps="ignore")
    replay = provider.replay([SYMBOL], [1, interval], start, end, 0, with_trades=True, gaps="ignore")
    return {
        "candles": await provider.get_candles(*ask, gaps="ignore"),
        "padded": await provider.get_candles(*ask, gaps="pad"),
        "latest": await provider.get_latest_candles(SYMBOL, interval, 20, end=end),
        "warm-up": await provider.get_warmup_data(SYMBOL, interval, 20, end=end, gaps="ignore"),
        "timeframes": await provider.get_multi_timeframe_candles(SYMBOL, end, [1, interval], gaps="ignore"),
        "replayed candles": [candle async for candle in provider.replay_candles(*ask, 0, gaps="ignore")],
        "trades": await provider.get_trades(SYMBOL, start, end, gaps="ignore"),
        "replayed trades": [trade async for trade in provider.replay_trades(SYMBOL, start, end, 0, gaps="ignore")],
        "replay": [item async for item in replay],
        "arrow": arrow.to_pylist(),
        "padded arrow": (await provider.get_candles_arrow(*ask, gaps="pad")).to_pylist(),
        "floats": floats.to_pylist(),
        "frame": frame.to_dicts(),
    }


@settings(
    max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    trades=st.lists(_trades, min_size=2, max_size=30, unique_by=lambda trade: trade.id),
    end=_moments.filter(lambda moment: moment > MONDAY),
    interval=st.sampled_from(INTERVALS),
)
async def test_later_trades_change_no_answer(
    database_server: DatabaseServer, trades: list[HistoricalTrade], end: datetime, interval: int
) -> None:
    earlier = [trade for trade in trades if trade.timestamp < end]
    later = [trade for trade in trades if trade.timestamp >= end]
    if not earlier:
        return
    url = database_server.create_migrated_database()
    pool = await create_pool(url, min_size=1, max_size=2)
    try:
        async with HistoricalDataProvider(url, 1, 2) as provider:
            await Store(pool).write(earlier)
            known = await answers(provider, interval, end)
            await Store(pool).write(later)
            before_refresh = await answers(provider, interval, end)
            await refresh(pool, now=MONDAY + 2 * SPAN)
            after_refresh = await answers(provider, interval, end)
    finally:
        pool.terminate()
        database_server.drop_database(url)

    assert [name for name in known if before_refresh[name] != known[name]] == []
    assert [name for name in known if after_refresh[name] != known[name]] == []


@pytest.mark.parametrize("interval", INTERVALS)
async def test_a_candle_that_is_open_at_the_end_is_left_out(interval: int, migrated_database_url: str) -> None:
    pool = await create_pool(migrated_database_url, min_size=1, max_size=1)
    await Store(pool).write([HistoricalTrade(1, SYMBOL, MONDAY, Decimal("1.5"), Decimal("2"), "buy", "limit")])
    opens = MONDAY - (MONDAY - datetime(2000, 1, 3, tzinfo=UTC)) % timedelta(minutes=interval)
    closes = opens + timedelta(minutes=interval)
    tick = timedelta(microseconds=1)

    async with HistoricalDataProvider(migrated_database_url, 1, 1) as provider:
        open_ = await provider.get_candles(SYMBOL, interval, opens, closes - tick, gaps="ignore")
        closed = await provider.get_candles(SYMBOL, interval, opens, closes, gaps="ignore")
        late = await provider.get_candles(SYMBOL, interval, opens + tick, closes, gaps="ignore")
    await pool.close()

    assert (len(open_), len(closed), len(late)) == (0, 1, 0)
