"""The table of candles: in 80 columns, with the candle that is still running marked."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kraken_history.cli.candle_table import print_candles
from kraken_history.records import CandleSource, HistoricalCandle, MadeUpCandle

START = datetime(2026, 11, 28, 13, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def candle(minute: int, source: CandleSource = "trades", interval: int = 1) -> HistoricalCandle:
    """At a price of eight characters."""
    price = Decimal("103566.3")
    return HistoricalCandle(
        "BTC/USDT", START + minute * MINUTE, interval, price, price, price, price, Decimal("1.23456789"), Decimal(1),
        12_345, Decimal("103565.1234567891"), source,
    )  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    return monkeypatch


@pytest.mark.parametrize("sources", [("trades", "trades"), ("ohlc", "trades"), ("csv", "ohlc")])
def test_a_candle_is_one_line_of_eighty_columns(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sources: tuple[CandleSource, CandleSource]
) -> None:
    """One column more made each candle four lines."""
    print_candles([candle(0, sources[0]), candle(1, sources[1])], now=START + 2 * MINUTE)

    title, _, _, first, second, *legend = capsys.readouterr().out.splitlines()
    assert max(map(len, (title, first, second, *legend))) <= 80
    assert first.startswith("2026-11-28 13:00")
    assert second.startswith("2026-11-28 13:01")
    for text in ("103566.3", "1.23456789", "12,345"):
        assert text in first
    assert ("source" in title) == (sources[0] == sources[1])
    assert bool(legend) == (sources[0] != sources[1])


def test_the_candle_that_is_still_running_is_marked(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_candles([candle(0), candle(1)], now=START + 1.5 * MINUTE)
    running = capsys.readouterr().out
    print_candles([candle(0), candle(1)], now=START + 2 * MINUTE)

    assert "13:00  " in running
    assert "13:01*" in running
    assert "* still running" in running
    assert "*" not in capsys.readouterr().out


def test_made_up_candles_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    known = candle(0)
    print_candles([known, MadeUpCandle.after(known, START + MINUTE)], now=START + 5 * MINUTE)

    out = capsys.readouterr().out
    assert "13:01~" in out
    assert "~ made up at the last close" in out


def test_a_pipe_has_every_column_and_days_have_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    print_candles([candle(0, "ohlc", 1440), candle(0, "csv", 1440)], now=START + timedelta(days=2))

    out = capsys.readouterr().out
    assert "103565.1234567891" in out
    assert "2026-11-28  103566.3" in out
    assert out.count("ohlc") == out.count("csv") == 1
