"""Tables in a terminal of 80 columns: symbols, numbers, days and times are readable, never broken within."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from kraken_history.cli.backfill import print_backfills
from kraken_history.cli.import_csv import print_imported
from kraken_history.cli.refresh import RefreshedInterval, print_refreshed
from kraken_history.cli.verify import print_differences
from kraken_history.csv_import import Imported
from kraken_history.fetching.backfill_targets import Backfill
from kraken_history.reading.differences import Difference

START = datetime(2013, 10, 6, 21, 34, 15, tzinfo=UTC)
END = datetime(2026, 11, 28, 17, 32, 6, 525058, tzinfo=UTC)
WHY = "Kraken answered: EQuery:Unknown asset pair"


def backfill(symbol: str, *, unidentified: int = 0, reason: str = "") -> Backfill:
    return Backfill(
        symbol, START, END, 0, "cancelled", reason, 123_456, 123_456_789, unidentified, 0, 1, None, START, END
    )


def backfills() -> None:
    print_backfills([backfill("BTC/USDT"), backfill("AAPLx/USD", unidentified=1_234_567, reason=WHY)])


def imported() -> None:
    file = "/home/trader/downloads/Kraken_OHLCVT_2026Q2/XBTUSDT_1.csv"
    print_imported([Imported(file, "BTC/USDT", 5_256_000, 5_256_000, 5_255_999, 52_560, START, END)])


def refreshed() -> None:
    print_refreshed([RefreshedInterval("15m", START, END, 123, 45_678)])


def differences() -> None:
    detail = "expected 12 trades with a volume of 1.23456789 by its trades, got 11 with 1.2"
    print_differences([Difference("AAPLx/USD", "candle_differs", START, END + timedelta(days=1), detail)])


@pytest.mark.parametrize(
    ("prints", "words"),
    [
        (
            backfills,
            {
                "BTC/USDT",
                "AAPLx/USD",
                "123,456,789",
                "123,456",
                "1,234,567 row(s) without a trade id",
                "17:32:06Z",
                f"AAPLx/USD: {WHY}",
            },
        ),
        (imported, {"BTC/USDT", "5,256,000", "5,255,999", "52,560", "21:34:15Z", "2026-11-28"}),
        (refreshed, {"15m", "45678", "2013-10-06", "21:34:15Z", "17:32:06Z"}),
        (differences, {"AAPLx/USD", "candle differs", "2013-10-06", "17:32:06Z", "1.23456789"}),
    ],
)
def test_a_table_fits_into_eighty_columns_and_breaks_at_spaces_only(
    prints: Callable[[], None], words: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time of a backfill once took four lines, such as 2026-1, 1-27T1, 7:32:0 and 2Z, and its symbol two."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)

    prints()

    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert {word for word in words if word not in shown} == set()


def test_in_a_pipe_a_row_is_a_line_and_a_file_has_its_folders(capsys: pytest.CaptureFixture[str]) -> None:
    imported()

    *_, row = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["/home/trader/downloads/Kraken_OHLCVT_2026Q2/XBTUSDT_1.csv", "BTC/USDT"]
    assert row.split()[-4:] == ["2013-10-06", "21:34:15Z", "2026-11-28", "17:32:06Z"]
