"""Frames in backtesting.py, vectorbt and backtrader themselves."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kraken_history.adapters import backtesting_frame, backtrader_feed, vectorbt_frame
from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.errors import CoverageError, UsageError
from kraken_history.provider import HistoricalDataProvider
from tests.adapters.conftest import END, QUIET, START, SYMBOL
from tests.adapters.packages import package

MINUTE = timedelta(minutes=1)
theirs = pytest.mark.filterwarnings("ignore")  # of packages that are not ours
COLUMNS = ["Open", "High", "Low", "Close", "Volume"]


async def frame_of(provider: HistoricalDataProvider, interval: int = 1, **choices: Any) -> Any:
    return await provider.get_candles_frame(SYMBOL, interval, START, END, **{"as_": "pandas", **choices})


@pytest.mark.parametrize("as_", ["pandas", "polars"])
async def test_a_frame_has_every_candle_with_its_floats(provider: HistoricalDataProvider, as_: str) -> None:
    candles = await provider.get_candles(SYMBOL, 1, START, END)

    frame = backtesting_frame(await frame_of(provider, as_=as_))

    assert list(frame.columns) == COLUMNS
    assert [time.to_pydatetime() for time in frame.index] == [candle.timestamp for candle in candles]
    assert frame["Volume"].tolist() == [float(candle.volume) for candle in candles]
    assert frame["High"].tolist() == [float(candle.high) for candle in candles]
    assert len(frame) == 30 - len(QUIET)


async def test_padded_candles_are_marked_and_a_hole_is_refused(provider: HistoricalDataProvider) -> None:
    padded = backtesting_frame(await frame_of(provider, gaps="pad"))

    assert list(padded.columns) == [*COLUMNS, "is_made_up"]
    assert [time.minute for time in padded.index[padded["is_made_up"]]] == list(QUIET)
    with pytest.raises(CoverageError):
        await provider.get_candles_frame(SYMBOL, 1, START - timedelta(hours=1), END, as_="pandas")


def test_the_blocking_provider_gives_the_same_frame(filled: str) -> None:
    with BlockingHistoricalDataProvider(filled, 1, 1) as history:
        candles = history.get_candles_frame(SYMBOL, 5, START, END, as_="pandas")

        assert len(backtesting_frame(candles)) == len(candles)


async def test_vectorbt_is_told_the_distance_only_of_candles_without_a_gap(provider: HistoricalDataProvider) -> None:
    padded: Any = vectorbt_frame(await frame_of(provider, gaps="pad"))
    quiet: Any = vectorbt_frame(await frame_of(provider, gaps="ignore"))

    assert (padded.index.freq, quiet.index.freq) == (MINUTE, None)
    assert len(quiet) == 30 - len(QUIET)


@pytest.mark.parametrize("adapt", [backtesting_frame, vectorbt_frame, backtrader_feed])
async def test_what_is_not_one_series_of_candles_is_refused_in_one_line(
    adapt: Any, provider: HistoricalDataProvider
) -> None:
    pandas = pytest.importorskip("pandas")
    if adapt is backtrader_feed:
        package("backtrader")
    both = pandas.concat([await frame_of(provider, 1, gaps="ignore"), await frame_of(provider, 3, gaps="ignore")])
    for wrong, message in (
        ([1, 2], "expected a frame of candles, got list: read one with history.get_candles_frame"),
        (pandas.DataFrame({"open": [1.0]}), "got one without high, low, close, volume, symbol, interval_minutes"),
        (both, "expected candles of one interval, got 1, 3: pass one at a time"),
    ):
        with pytest.raises(UsageError, match="expected") as refused:
            adapt(wrong)
        assert message in str(refused.value)


@theirs
async def test_backtesting_py_trades_on_the_candles(provider: HistoricalDataProvider) -> None:
    backtesting = package("backtesting")
    candles = await provider.get_candles(SYMBOL, 1, START, END)
    seen: list[tuple[datetime, float, float]] = []

    class Watch(backtesting.Strategy):  # type: ignore[misc, name-defined]
        def init(self) -> None:
            pass

        def next(self) -> None:
            seen.append((self.data.index[-1].to_pydatetime(), self.data.Close[-1], self.data.Volume[-1]))
            if not self.position:
                self.buy(size=1)

    stats = backtesting.Backtest(
        backtesting_frame(await frame_of(provider)), Watch, cash=10_000_000, finalize_trades=True
    ).run()

    # The first candle is never given to `next`.
    assert seen == [(c.timestamp, float(c.close), float(c.volume)) for c in candles[1:]]
    assert stats["# Trades"] == 1
    assert stats["Start"].to_pydatetime() == START


@theirs
async def test_backtrader_shows_each_candle_when_it_is_closed(provider: HistoricalDataProvider) -> None:
    backtrader = package("backtrader")
    minutes = await provider.get_candles(SYMBOL, 1, START, END)
    longer = await provider.get_candles(SYMBOL, 15, START, END, gaps="ignore")
    seen: list[list[tuple[datetime, float, float]]] = [[], []]
    early: list[datetime] = []

    class Watch(backtrader.Strategy):  # type: ignore[misc, name-defined]
        def next(self) -> None:
            now = self.datetime.datetime(0).replace(tzinfo=UTC)
            for place, data in enumerate(self.datas):
                if len(data):
                    bar = (data.datetime.datetime(0).replace(tzinfo=UTC), data.close[0], data.volume[0])
                    early.extend([now] if bar[0] > now else [])
                    if not seen[place] or seen[place][-1] != bar:
                        seen[place].append(bar)

        prenext = next

    cerebro = backtrader.Cerebro()
    for interval in (1, 15):
        candles = await frame_of(provider, interval, gaps="ignore")
        if len(candles):
            cerebro.adddata(backtrader_feed(candles, name=str(interval)))
    cerebro.addstrategy(Watch)
    cerebro.run()

    assert not early
    for place, candles in enumerate([minutes] + ([longer] if longer else [])):
        width = timedelta(minutes=(1, 15)[place])
        expected = [(c.timestamp + width, float(c.close), float(c.volume)) for c in candles]
        assert [(at.replace(microsecond=0), close, volume) for at, close, volume in seen[place]] == expected


@theirs
async def test_backtrader_has_a_line_that_says_which_candles_are_made_up(provider: HistoricalDataProvider) -> None:
    backtrader = package("backtrader")
    made_up: list[bool] = []

    class Watch(backtrader.Strategy):  # type: ignore[misc, name-defined]
        def next(self) -> None:
            made_up.append(self.data.is_made_up[0])

    cerebro = backtrader.Cerebro()
    cerebro.adddata(backtrader_feed(await frame_of(provider, gaps="pad")))
    cerebro.addstrategy(Watch)
    cerebro.run()

    assert [minute for minute, is_it in enumerate(made_up) if is_it] == list(QUIET)
    assert len(made_up) == 30


@theirs
@pytest.mark.adapters
@pytest.mark.timeout(900)
async def test_vectorbt_computes_on_the_candles(provider: HistoricalDataProvider) -> None:
    vectorbt = package("vectorbt")
    candles = await provider.get_candles(SYMBOL, 1, START, END)
    frame = vectorbt_frame(await frame_of(provider))

    data = vectorbt.Data.from_data({SYMBOL: frame}, download_kwargs={})
    portfolio = vectorbt.Portfolio.from_holding(frame["Close"], init_cash=1_000.0, freq="1min")

    assert data.get("Volume").sum() == pytest.approx(float(sum(c.volume for c in candles)), abs=1e-9)
    assert data.get("Close").tolist() == [float(c.close) for c in candles]
    expected = float(candles[-1].close / candles[0].close - 1)
    assert portfolio.total_return() == pytest.approx(expected)
