"""Every read, over any symbol, interval and range, is what the raw trades say, however fresh the aggregates are."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kraken_history.database.connections import create_pool
from kraken_history.intervals import VIEWS
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle, HistoricalTrade
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.provider.model import Model
from tests.support.servers import DatabaseServer

SATURDAY = datetime(2025, 11, 8, 22, tzinfo=UTC)  # the first week and the first day end soon
SYMBOLS = ("BTC/USDT", "XRP/BTC")
INTERVALS = (*VIEWS, 2, 3, 7, 10, 45, 90, 120, 300, 2880, 20160)
FAR = datetime(2026, 3, 1, tzinfo=UTC)

# Few distinct times, so that buckets meet; near the borders of hours, days and weeks.
_instants = st.builds(
    lambda day, minute, second: SATURDAY + timedelta(days=day, minutes=minute, seconds=second),
    st.sampled_from((0, 1, 2, 9)),
    st.sampled_from((0, 1, 2, 44, 59, 60, 119, 120, 121, 240)),
    st.sampled_from((0, 30, 59)),
)
_figures = st.integers(1, 10**7).map(lambda n: Decimal(n).scaleb(-3))


@st.composite
def _trades(draw: st.DrawFn) -> HistoricalTrade:
    symbol, id_ = draw(st.sampled_from(SYMBOLS)), draw(st.integers(1, 300))
    return HistoricalTrade(id_, symbol, draw(_instants), draw(_figures), draw(_figures), "buy", "limit")


class Read:
    """One question to the provider: its arguments."""

    def __init__(self, symbol: str, interval: int, bounds: Sequence[datetime], count: int) -> None:
        self.symbol, self.interval, self.count = symbol, interval, count
        self.start, self.end = sorted(bounds)

    def __repr__(self) -> str:
        return f"Read({self.symbol} {self.interval} min, {self.start} … {self.end}, {self.count})"


_reads = st.builds(
    Read,
    st.sampled_from(SYMBOLS),
    st.sampled_from(INTERVALS),
    st.lists(_instants | st.just(FAR), min_size=2, max_size=2, unique=True),
    st.integers(1, 8),
)
# What is written, until when the longer intervals are refreshed then (or not), what is read then.
_steps = st.tuples(
    st.lists(_trades(), min_size=1, max_size=12), st.none() | _instants | st.just(FAR), st.lists(_reads, max_size=3)
)


@asynccontextmanager
async def fresh_database(server: DatabaseServer) -> AsyncIterator[str]:
    """A database of its own for each sequence: a watermark cannot be moved back."""
    url = server.create_migrated_database()
    try:
        yield url
    finally:
        server.drop_database(url)


# Each example is a database of its own, so a failing one is shown as it is.
@settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_steps, min_size=1, max_size=4))
async def test_every_read_is_what_the_trades_say(
    database_server: DatabaseServer,
    steps: list[tuple[list[HistoricalTrade], datetime | None, list[Read]]],
) -> None:
    model = Model()
    async with fresh_database(database_server) as url:
        pool = await create_pool(url, min_size=1, max_size=2)
        try:
            async with HistoricalDataProvider(url, 1, 2) as provider:
                for trades, now, reads in steps:
                    await Store(pool).write(trades)
                    model.add(trades)
                    if now is not None:
                        await refresh(pool, now=now)
                    assert await provider.get_symbols() == model.symbols()
                    for read in reads:
                        if read.symbol in model.symbols():
                            await assert_conforms(provider, model, read)
        finally:
            pool.terminate()


async def assert_conforms(provider: HistoricalDataProvider, model: Model, read: Read) -> None:
    """Every method's answer to a question, beside the model's."""
    q = read
    between = model.candles_between(q.symbol, q.interval, q.start, q.end)
    closed = model.candles_between(q.symbol, q.interval, SATURDAY - timedelta(days=30), q.end)

    assert await provider.get_candles(q.symbol, q.interval, q.start, q.end, gaps="ignore") == between
    assert (
        await provider.get_candles(q.symbol, q.interval, q.start, q.end, q.count, gaps="ignore") == between[: q.count]
    )
    assert await provider.get_latest_candles(q.symbol, q.interval, q.count, end=q.end) == closed[-q.count :]
    latest = model.candles_of(q.symbol, q.interval)[-q.count :]
    assert await provider.get_latest_candles(q.symbol, q.interval, q.count) == latest
    assert await provider.get_latest_candles(q.symbol, q.interval, q.count) == latest
    assert [c async for c in provider.replay_candles(q.symbol, q.interval, q.start, q.end, 0, gaps="ignore")] == between
    await assert_trades_conform(provider, model, q)
    await assert_timeframes_conform(provider, model, q)
    merged = provider.replay([q.symbol], [q.interval, 1], q.start, q.end, 0, with_trades=True, gaps="ignore")
    assert [item async for item in merged] == expected_merge(model, q)


async def assert_trades_conform(provider: HistoricalDataProvider, model: Model, q: Read) -> None:
    trades = model.trades_between(q.symbol, q.start, q.end)
    minutes = model.candles_of(q.symbol, 1)

    assert await provider.get_trades(q.symbol, q.start, q.end, gaps="ignore") == trades
    assert await provider.get_trades(q.symbol, q.start, q.end, q.count, gaps="ignore") == trades[: q.count]
    assert [trade async for trade in provider.replay_trades(q.symbol, q.start, q.end, 0, gaps="ignore")] == trades
    assert await provider.get_data_range(q.symbol) == {
        "oldest": minutes[0].timestamp,
        "newest": minutes[-1].timestamp,
        "total_candles": len(minutes),
    }
    status = await provider.get_sync_status(q.symbol)
    assert status is not None
    ids = [trade.id for trade in model.trades_of(q.symbol)]
    assert (status.total_trades, status.missing_trades) == (len(ids), max(ids) - min(ids) + 1 - len(ids))


async def assert_timeframes_conform(provider: HistoricalDataProvider, model: Model, q: Read) -> None:
    found = await provider.get_multi_timeframe_candles(
        q.symbol, q.end, [1, 60, q.interval], lookback=q.count, gaps="ignore"
    )

    assert found == {
        interval: [
            candle
            for candle in model.candles_between(q.symbol, interval, SATURDAY - timedelta(days=60), q.end)
            if candle.timestamp >= last_closed(q.end, interval) - q.count * timedelta(minutes=interval)
        ]
        for interval in (1, 60, q.interval)
    }


def last_closed(end: datetime, interval: int) -> datetime:
    """The end of the last bucket that is closed."""
    return end - (end - datetime(2000, 1, 3, tzinfo=UTC)) % timedelta(minutes=interval)


def expected_merge(model: Model, q: Read) -> list[HistoricalCandle | HistoricalTrade]:
    """In the order of becoming known: a candle when it closes, before a trade of that instant."""
    keyed: list[tuple[datetime, int, int, HistoricalCandle | HistoricalTrade]] = [
        (candle.timestamp + timedelta(minutes=interval), 0, interval, candle)
        for interval in {q.interval, 1}
        for candle in model.candles_between(q.symbol, interval, q.start, q.end)
    ]
    keyed += [(t.timestamp, 1, t.id, t) for t in model.trades_between(q.symbol, q.start, q.end)]
    return [item for *_, item in sorted(keyed, key=lambda entry: entry[:3])]
