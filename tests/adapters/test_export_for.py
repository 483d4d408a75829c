"""``export --for``: the files in the programs themselves, and what the command refuses."""

import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kraken_history.adapters import freqtrade, nautilus_bars, nautilus_instrument, nautilus_trades
from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.errors import MissingPackage, UsageError
from kraken_history.records import HistoricalCandle, MadeUpCandle
from tests.adapters.conftest import END, QUIET, START, SYMBOL
from tests.adapters.packages import package
from tests.support.command import Run
from tests.support.examples import make_candle, make_trade

SPAN = ("--from", START.isoformat(), "--to", END.isoformat())
theirs = pytest.mark.filterwarnings("ignore")  # of packages that are not ours


@pytest.fixture
def stored(filled: str, clean_environment: pytest.MonkeyPatch) -> Any:
    """What the provider reads of the range."""
    clean_environment.setenv("DATABASE_URL", filled)
    with BlockingHistoricalDataProvider(filled, 1, 1) as history:
        return SimpleNamespace(
            minutes=history.get_candles(SYMBOL, 1, START, END),
            threes=history.get_candles(SYMBOL, 3, START, END),
            trades=history.get_trades(SYMBOL, START, END),
        )


@pytest.mark.parametrize(
    ("interval", "name"),
    [(1, "1m"), (5, "5m"), (60, "1h"), (90, "90m"), (240, "4h"), (720, "12h"), (1440, "1d"), (10080, "1w")],
)
def test_freqtrades_names_of_intervals(interval: int, name: str) -> None:
    assert freqtrade.candles_name("BTC/USDT", interval) == Path(f"BTC_USDT-{name}.feather")
    assert freqtrade.trades_name("BRK.B/USD") == Path("BRK_B_USD-trades.feather")


def test_freqtrades_files_hold_every_candle_and_trade(stored: Any, command: Run, tmp_path: Path) -> None:
    """Read by pyarrow alone, so that this runs everywhere."""
    from pyarrow import compute, feather

    for arguments in (["--interval", "1m"], ["--interval", "3m"], ["--trades"]):
        outcome = command("export", SYMBOL, "--for", "freqtrade", "--output", str(tmp_path), *SPAN, *arguments)
        assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "BTC_USDT-1m.feather",
        "BTC_USDT-3m.feather",
        "BTC_USDT-trades.feather",
    ]

    minutes = feather.read_table(tmp_path / "BTC_USDT-1m.feather")
    trades = feather.read_table(tmp_path / "BTC_USDT-trades.feather")
    assert minutes.column_names == ["date", "open", "high", "low", "close", "volume"]
    assert [row["date"] for row in minutes.to_pylist()] == [candle.timestamp for candle in stored.minutes]
    assert minutes["volume"].to_pylist() == [float(candle.volume) for candle in stored.minutes]
    assert trades.column_names == ["timestamp", "id", "type", "side", "price", "amount", "cost"]
    assert trades["id"].to_pylist() == [str(trade.id) for trade in stored.trades]
    assert trades["amount"].to_pylist() == [float(trade.volume) for trade in stored.trades]
    assert Decimal(str(compute.sum(trades["amount"]).as_py())).quantize(Decimal("1e-8")) == sum(
        trade.volume for trade in stored.trades
    )


@theirs
@pytest.mark.adapters
@pytest.mark.timeout(900)  # these packages take long to import
def test_freqtrade_loads_the_candles_and_loses_no_volume_of_the_trades(
    stored: Any, command: Run, tmp_path: Path
) -> None:
    handlers = package("freqtrade.data.history.datahandlers")
    converter = package("freqtrade.data.converter.trade_converter")
    enums = package("freqtrade.enums")
    for arguments in (["--interval", "3m"], ["--trades"]):
        folder = tmp_path / "data/kraken"
        outcome = command("export", SYMBOL, "--for", "freqtrade", "--output", str(folder), *SPAN, *arguments)
        assert outcome.code == 0, outcome.err

    handler = handlers.get_datahandler(folder, data_format="feather")
    spot, mode = enums.CandleType.SPOT, enums.TradingMode.SPOT
    assert handler.ohlcv_get_available_data(folder, mode) == [(SYMBOL, "3m", spot)]
    assert handler.trades_get_available_data(folder, mode) == [SYMBOL]
    loaded = handler.ohlcv_load(SYMBOL, "3m", spot, fill_missing=False)
    assert [row.to_pydatetime() for row in loaded["date"]] == [candle.timestamp for candle in stored.threes]
    assert loaded["volume"].tolist() == [float(candle.volume) for candle in stored.threes]

    trades = handler.trades_load(SYMBOL, mode)
    rebuilt = converter.trades_to_ohlcv(trades, "1m")
    assert len(trades) == len(stored.trades)
    assert trades["amount"].sum() == pytest.approx(float(sum(trade.volume for trade in stored.trades)), abs=1e-9)
    assert [row.to_pydatetime() for row in rebuilt["date"]] == [candle.timestamp for candle in stored.minutes]
    for column in ("open", "high", "low", "close", "volume"):
        expected = [float(getattr(candle, column)) for candle in stored.minutes]
        assert rebuilt[column].tolist() == pytest.approx(expected, abs=1e-9), column

    # Without ids, as freqtrade's own importer of Kraken's downloads leaves them, trades of one instant are lost.
    assert len(converter.trades_df_remove_duplicates(trades.assign(id=""))) < len(trades)


@theirs
@pytest.mark.adapters
@pytest.mark.timeout(900)  # these packages take long to import
def test_a_catalog_of_nautilus_trader_holds_every_bar_and_trade(stored: Any, command: Run, tmp_path: Path) -> None:
    new_catalog = package("nautilus_trader.persistence.catalog").ParquetDataCatalog
    for arguments in (["--interval", "1m"], ["--interval", "3m"], ["--trades"]):
        outcome = command("export", SYMBOL, "--for", "nautilus", "--output", str(tmp_path), *SPAN, *arguments)
        assert outcome.code == 0, outcome.err
    catalog = new_catalog(str(tmp_path))

    (instrument,) = catalog.instruments()
    assert (str(instrument.id), instrument.price_precision, instrument.size_precision) == ("BTC/USDT.KRAKEN", 1, 8)
    for interval, candles in ((1, stored.minutes), (3, stored.threes)):
        bars = catalog.bars(bar_types=[f"{instrument.id}-{interval}-MINUTE-LAST-EXTERNAL"])
        assert [
            (bar.ts_event, *(each.as_decimal() for each in (bar.open, bar.high, bar.low, bar.close, bar.volume)))
            for bar in bars
        ] == [
            (
                int((candle.timestamp + timedelta(minutes=interval)).timestamp()) * 10**9,
                *(candle.open, candle.high, candle.low, candle.close, candle.volume),
            )
            for candle in candles
        ]
    ticks = catalog.trade_ticks(instrument_ids=[str(instrument.id)])
    assert [
        (int(tick.trade_id.value), tick.price.as_decimal(), tick.size.as_decimal(), tick.aggressor_side.name)
        for tick in ticks
    ] == [
        (trade.id, trade.price, trade.volume, {"buy": "BUYER", "sell": "SELLER"}[trade.side]) for trade in stored.trades
    ]

    again = command("export", SYMBOL, "--for", "nautilus", "--output", str(tmp_path), *SPAN)
    assert again.code == 2
    assert "of this range already: choose another folder with --output, or replace the data with --force" in again.err
    forced = command("export", SYMBOL, "--for", "nautilus", "--output", str(tmp_path), *SPAN, "--force")
    assert forced.code == 0, forced.err
    bars = new_catalog(str(tmp_path)).bars(bar_types=[f"{instrument.id}-1-MINUTE-LAST-EXTERNAL"])
    assert len(bars) == len(stored.minutes)
    assert not list(tmp_path.glob(".part*"))


@theirs
@pytest.mark.adapters
@pytest.mark.timeout(900)  # these packages take long to import
def test_a_backtest_of_nautilus_trader_runs_on_the_catalogs_bars(stored: Any, command: Run, tmp_path: Path) -> None:
    engines, model = package("nautilus_trader.backtest.engine"), package("nautilus_trader.model")
    enums, trading = package("nautilus_trader.model.enums"), package("nautilus_trader.trading.strategy")
    assert command("export", SYMBOL, "--for", "nautilus", "--output", str(tmp_path), *SPAN).code == 0
    catalog = package("nautilus_trader.persistence.catalog").ParquetDataCatalog(str(tmp_path))
    (instrument,) = catalog.instruments()
    seen: list[Any] = []

    class Watch(trading.Strategy):  # type: ignore[misc, name-defined]
        def on_start(self) -> None:
            self.subscribe_bars(model.BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-EXTERNAL"))

        def on_bar(self, bar: Any) -> None:
            seen.append((self.clock.timestamp_ns() == bar.ts_event, bar.close.as_decimal()))

    engine = engines.BacktestEngine(
        engines.BacktestEngineConfig(logging=package("nautilus_trader.config").LoggingConfig(bypass_logging=True))
    )
    engine.add_venue(
        instrument.id.venue,
        oms_type=enums.OmsType.NETTING,
        account_type=enums.AccountType.CASH,
        starting_balances=[model.Money(1_000_000, instrument.quote_currency)],
        base_currency=None,
    )
    engine.add_instrument(instrument)
    engine.add_data(catalog.bars())
    engine.add_strategy(Watch())
    engine.run()
    engine.dispose()

    assert seen == [(True, candle.close) for candle in stored.minutes]


@theirs
@pytest.mark.adapters
@pytest.mark.timeout(900)  # these packages take long to import
def test_records_that_nautilus_trader_would_misread_are_refused() -> None:
    package("nautilus_trader.model")
    instrument = nautilus_instrument(SYMBOL, 1)
    padded = MadeUpCandle(*(getattr(make_candle(), name) for name in HistoricalCandle.__struct_fields__))

    cases: list[tuple[list[Any], Any, str]] = [
        ([make_trade(1, price="1.23")], nautilus_trades, "expected a price of at most 1 decimals, got 1.23"),
        ([make_trade(1, symbol="ETH/USDT")], nautilus_trades, "expected records of BTC/USDT, got one of ETH/USDT"),
        ([padded], nautilus_bars, "expected candles that are not padded: a bar cannot say that it is made up"),
    ]
    for records, adapt, message in cases:
        with pytest.raises(UsageError) as refused:
            adapt(records, instrument)
        assert message in str(refused.value)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nautilus_trader.model", None)

    with pytest.raises(MissingPackage, match=r"nautilus_trader is not installed: run pip install nautilus_trader"):
        nautilus_instrument(SYMBOL, 1)


def test_what_is_missing_is_refused_or_told(stored: Any, command: Run, tmp_path: Path) -> None:
    earlier = ("--from", (START - timedelta(hours=2)).isoformat(), "--to", END.isoformat())
    export = ("export", SYMBOL, "--for", "freqtrade", "--output", str(tmp_path / "data"), *earlier)

    refused = command(*export)
    assert refused.code == 1
    assert not list((tmp_path / "data").iterdir())
    told = command(*export, "--gaps", "ignore")

    assert told.code == 0
    written, missing = told.err.splitlines()
    assert written.startswith(f"{30 - len(QUIET) + 1} candle(s) of BTC/USDT, 1 min, written to ")
    assert "of this range is missing: `kraken-history coverage BTC/USDT" in missing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "freqtrade"], "expected the data folder of freqtrade with --output, such as user_data/data/kraken"),
        (["--for", "freqtrade", "--output", "-"], "expected the data folder of freqtrade with --output"),
        (["--for", "freqtrade", "--output", ".", "--gaps", "pad"], "--gaps: expected one of raise, ignore, got 'pad'"),
        (["--for", "freqtrade", "--output", ".", "--format", "csv"], "expected --for or --format, got both"),
        (["--for", "zipline"], "zipline"),
    ],
)
def test_an_option_that_is_not_valid_is_one_line(
    arguments: list[str], message: str, command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("export", SYMBOL, *arguments)

    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_file_that_exists_is_replaced_only_by_force(stored: Any, command: Run, tmp_path: Path) -> None:
    export = ("export", SYMBOL, "--for", "freqtrade", "--output", str(tmp_path / "data"), *SPAN)
    assert command(*export).code == 0

    again = command(*export)

    assert again.code == 2
    assert "BTC_USDT-1m.feather exists already" in again.err
    assert command(*export, "--force").code == 0
