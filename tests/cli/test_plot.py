"""``candles --plot``."""

import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from kraken_history.cli.plot import MOST_CANDLES, write_plot
from kraken_history.errors import UsageError
from kraken_history.records import HistoricalCandle
from tests.cli.samples import START, store, trade
from tests.support.command import Run
from tests.support.examples import make_candle
from tests.support.servers import Background

POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
PNG = b"\x89PNG\r\n\x1a\n"
BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def candle(minute: int, close: str = "101.5") -> HistoricalCandle:
    return make_candle(START + timedelta(minutes=minute), close=close)


def colours(file: Path) -> list[set[tuple[int, int, int]]]:
    """The colours of each column of the picture's pixels, below the title."""
    from matplotlib.image import imread

    pixels = (imread(file)[60:, :, :3] * 255).round().astype(int)
    return [{(r, g, b) for r, g, b in pixels[:, x].tolist()} for x in range(pixels.shape[1])]


@pytest.mark.parametrize("count", [1, 2, 301, MOST_CANDLES])
def test_any_number_of_candles_makes_a_picture(count: int, tmp_path: Path) -> None:
    write_plot([candle(n, "99.5" if n % 3 else "101.5") for n in range(count)], tmp_path / "x.png")

    assert (tmp_path / "x.png").read_bytes().startswith(PNG)
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_up_and_down_have_their_colours_and_a_gap_is_empty(tmp_path: Path) -> None:
    write_plot([candle(0), candle(9, "99.5")], tmp_path / "x.png")
    columns = colours(tmp_path / "x.png")
    blue = [x for x, found in enumerate(columns) if BLUE in found]
    orange = [x for x, found in enumerate(columns) if ORANGE in found]
    width = orange[-1] - orange[0]

    assert blue
    assert orange
    assert 9 * width < orange[0] - blue[0] < 14 * width  # nine minutes, of which a body takes up most of one


@pytest.mark.parametrize("price", ["0.0000001", "0", "99999999999"])
def test_candles_without_a_range_are_drawn(price: str, tmp_path: Path) -> None:
    number = Decimal(price)
    flat = HistoricalCandle("BTC/USDT", START, 60, number, number, number, number, number, number, 0, number)

    write_plot([flat], tmp_path / "x.png")

    assert (tmp_path / "x.png").read_bytes().startswith(PNG)


def test_more_than_can_be_drawn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2,000 candles"):
        write_plot([candle(n) for n in range(MOST_CANDLES + 1)], tmp_path / "x.png")

    assert list(tmp_path.iterdir()) == []


@POSTGRESQL
def test_the_command_draws_instead_of_writing(
    migrated_database_url: str, background: Background, command: Run, tmp_path: Path
) -> None:
    background.run(store(migrated_database_url, [trade(n, 60 * n) for n in range(10)]))

    outcome = command("candles", "BTC/USDT", "--plot", str(tmp_path / "x.png"), DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (0, "", 1)
    assert "of this range is missing" in outcome.err
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)


@POSTGRESQL
def test_what_cannot_be_drawn_is_said(
    migrated_database_url: str, background: Background, command: Run, tmp_path: Path
) -> None:
    background.run(store(migrated_database_url, [trade(n, 60 * n) for n in range(MOST_CANDLES + 1)]))
    target = str(tmp_path / "x.png")

    for code, words, *options in (
        (2, "--interval", "--from", "2026-01-01", "--plot", target),
        (2, "2,000", "--limit", "3000", "--plot", target),
        (2, "x.png", "--plot", str(tmp_path / "x.jpg")),
        (2, "no folder", "--plot", str(tmp_path / "no/x.png")),
    ):
        outcome = command("candles", "BTC/USDT", *options, DATABASE_URL=migrated_database_url)

        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
        assert words in outcome.err
        assert "--output" not in outcome.err  # which `export` has, and `candles` lacks
    nothing = command("candles", "BTC/USDT", "--to", "2020-01-01", "--plot", target, DATABASE_URL=migrated_database_url)

    assert nothing.code == 1
    assert nothing.err.endswith("there is nothing to draw\n")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_is_said_what_to_install() -> None:
    blocked = (
        "import sys; sys.modules['matplotlib'] = None; from kraken_history.cli.app import run;"
        "sys.exit(run(['candles', 'BTC/USDT', '--plot', 'x.png']))"
    )

    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "kraken-history: matplotlib is not installed: run pip install '.[plot]' in the folder of kraken-history\n"
    )
