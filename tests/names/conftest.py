"""One Kraken with ordinary pairs and a tokenised one, a database that holds them, and the names of each."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kraken_history.clock import utc_now
from kraken_history.fetching.gaps import run_gap_filler
from kraken_history.records import floor_minute
from simulator import Simulator
from tests.conftest import REPOSITORY
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
from tests.support.kraken import NoLimit
from tests.support.servers import Background, DatabaseServer

NAMES = {
    "BTC/USDT": ("BTC/USDT", "XBT/USDT", "XBTUSDT", "BTCUSDT", "btc/usdt", "xbtusdt", "XXBT/USDT"),
    "BTC/USD": ("BTC/USD", "XBT/USD", "XBTUSD", "XXBTZUSD", "BTCUSD", "btc/usd"),
    "AAPLx/USD": ("AAPLx/USD", "AAPLxUSD", "aaplx/usd", "AAPLX/USD"),
}
"""By symbol, the names that a person may write."""

SYMBOLS = tuple(NAMES)
EVERY_NAME = [pytest.param(symbol, name, id=name) for symbol, names in NAMES.items() for name in names]
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of inputs that once failed."""
    folder = Path(os.environ.get("KRAKEN_CASES", REPOSITORY.parent / "shared/cases"))
    if not folder.is_dir():
        pytest.skip(f"no failed inputs in {folder}; set KRAKEN_CASES")
    return folder


@pytest.fixture(scope="module")
def kraken(background: Background) -> Iterator[Simulator]:
    """Two hours of trades of three pairs, in a thread of its own: commands have loops of their own too."""
    kraken = Simulator(symbols=SYMBOLS, emitting=False, history=1_500, history_hours=2, rest_burst=1_000_000)
    background.run(kraken.start())
    yield kraken
    background.run(kraken.stop())


@pytest.fixture(scope="module")
def filled_url(database_server: DatabaseServer, background: Background, kraken: Simulator) -> Iterator[str]:
    """A database that has fetched all of it, the tokenised pair like any other; it is only read."""
    url = database_server.create_migrated_database()
    filling = run_gap_filler(
        url, symbols=SYMBOLS, history_days=1, kraken_rest_url=kraken.rest_url, limiter=NoLimit(), max_concurrent=1
    )
    assert background.run(filling)["errors"] == []
    yield url
    database_server.drop_database(url)


@pytest.fixture(scope="module")
def end(filled_url: str) -> datetime:
    """Half an hour before this, and the time before it, are stored and covered."""
    return floor_minute(utc_now()) - 5 * MINUTE
