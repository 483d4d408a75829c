"""A user's type checker sees the API as it is."""

import ast
import re
from pathlib import Path

import pytest
from mypy import api

from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.provider import HistoricalDataProvider
from tests.support.compose_file import REPOSITORY

USE = Path(__file__).with_name("typed_api.py")

# Each line is wrong, and says in its comment what a type checker finds.
MISTAKES = """
from datetime import datetime
from kraken_history import BlockingHistoricalDataProvider, HistoricalCandle, HistoricalDataProvider
from kraken_history import NoSuchName  # attr-defined

async def awaited(history: HistoricalDataProvider, now: datetime) -> None:
    await history.get_candles("BTC/USDT", "1h", now, now)  # arg-type
    await history.get_candles("BTC/USDT", 1, now)  # call-arg
    await history.get_candles("BTC/USDT", 1, now, now, gaps="repair")  # arg-type
    await history.get_candles_frame("BTC/USDT", 1, now, now, as_="numpy")  # call-overload
    await history.get_candles_arrow("BTC/USDT", 1, now, now, numbers="int")  # arg-type
    history.get_symbols().sort()  # attr-defined
    await history.follow_candles(["BTC/USDT"], 1)  # misc
    (await history.get_sync_status("BTC/USDT")).total_trades  # union-attr
    (await history.get_data_range("BTC/USDT"))["count"]  # typeddict-item
    history.get_bars  # attr-defined

def waited_for(history: BlockingHistoricalDataProvider, candle: HistoricalCandle, now: datetime) -> None:
    history.get_candles("BTC/USDT", 1, now, "tomorrow")  # arg-type
    history.get_latest_candles("BTC/USDT", 1)  # call-arg
    history.get_candles_frame("BTC/USDT", 1, now, now, as_="numpy")  # call-overload
    history.load_run("first")  # arg-type
    candle.price  # attr-defined
    candle.close * 1.5  # operator
    candle.close = candle.open  # misc
"""


def check(*files: Path, cache: Path) -> set[tuple[str, int, str]]:
    """Errors of mypy, strict, as file, line and code."""
    arguments = ["--strict", "--config-file=", f"--cache-dir={cache}", "--no-error-summary", "--hide-error-context"]
    found, trouble, _ = api.run([*arguments, *map(str, files)])
    assert trouble == ""
    errors = re.findall(r"^(.+?):(\d+): error: .*\[([\w-]+)\]$", found, re.MULTILINE)
    return {(Path(file).name, int(line), code) for file, line, code in errors}


@pytest.mark.timeout(300)
def test_it_is_checked_as_it_is_used_and_mistakes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    mistakes = tmp_path / "mistakes.py"
    mistakes.write_text(MISTAKES)
    monkeypatch.setenv("MYPYPATH", str(REPOSITORY / "src"))
    marked = re.findall(r"^(.*?)(?:  # ([\w-]+))?$", MISTAKES, re.MULTILINE)

    found = check(USE, mistakes, cache=Path(request.config.cache.mkdir("mypy")))

    assert found == {("mistakes.py", number, code) for number, (_, code) in enumerate(marked, start=1) if code}


def test_every_method_is_used() -> None:
    used = {node.attr for node in ast.walk(ast.parse(USE.read_text())) if isinstance(node, ast.Attribute)}
    methods = {
        name
        for kind in (HistoricalDataProvider, BlockingHistoricalDataProvider)
        for name in vars(kind)
        if not name.startswith("_")
    }

    assert methods - used == set()
