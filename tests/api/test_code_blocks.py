"""What README and docs show in Python works."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from kraken_history.database.connections import create_pool
from kraken_history.records import HistoricalTrade, floor_minute
from kraken_history.storing.store import Store
from kraken_history.symbols import DEFAULT_SYMBOLS
from tests.api.code_blocks import Block, read_blocks
from tests.support.compose_file import REPOSITORY
from tests.support.examples import make_trade
from tests.support.servers import Background, DatabaseServer

pytestmark = pytest.mark.servers

DOCUMENTS = [Path("README.md"), *sorted(path.relative_to(REPOSITORY) for path in REPOSITORY.glob("docs/**/*.md"))]
STAND_ALONE = [Path("README.md"), Path("docs/quick-start.md")]
WITH_PYTHON = [
    path for path in DOCUMENTS if any(not block.not_run for block in read_blocks((REPOSITORY / path).read_text()))
]
MINUTE = timedelta(minutes=1)
TIMEOUT_S = 60


class Feed:
    """Trades of all symbols, one each at a time, without holes in their ids."""

    def __init__(self) -> None:
        self._id = 0

    def trades(self, moments: list[datetime]) -> list[HistoricalTrade]:
        found = []
        for moment in moments:
            self._id += 1
            price = str(100 + Decimal(self._id % 97) / 10)
            found += [make_trade(self._id, moment, price, symbol=symbol) for symbol in DEFAULT_SYMBOLS]
        return found


def history_until(now: datetime) -> list[datetime]:
    """Half-hours of January 2026, and the minutes of the last two days."""
    january = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        *(january + n * 30 * MINUTE for n in range(31 * 48)),
        *(now - n * MINUTE for n in range(2 * 24 * 60, -1, -1)),
    ]


async def feed(database_url: str, filled: asyncio.Event) -> None:
    """Fill the database; then let a minute of trades follow whenever the last is written."""
    now = floor_minute(datetime.now(UTC))
    source = Feed()
    async with await create_pool(database_url, min_size=1, max_size=1) as pool:
        store = Store(pool)
        await store.write(source.trades(history_until(now)))
        filled.set()
        while True:
            now += MINUTE
            await store.write(source.trades([now]))
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def live_url(request: pytest.FixtureRequest, background: Background) -> Iterator[str]:
    """A database with history that goes on, a minute every few hundredths of a second."""
    server = request.getfixturevalue("_postgresql_server")
    assert isinstance(server, DatabaseServer)
    url = server.create_migrated_database()
    filled = asyncio.Event()

    async def start() -> asyncio.Task[None]:
        feeding = asyncio.create_task(feed(url, filled))
        waiting = asyncio.create_task(filled.wait())
        await asyncio.wait([feeding, waiting], return_when=asyncio.FIRST_COMPLETED)
        return feeding

    async def stop() -> None:
        feeding.cancel()
        [outcome] = await asyncio.gather(feeding, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome

    feeding = background.run(start())
    yield url
    background.run(stop())
    server.drop_database(url)


@pytest.mark.parametrize("document", WITH_PYTHON, ids=str)
def test_its_python_runs(document: Path, live_url: str, tmp_path: Path) -> None:
    environment = os.environ | {"DATABASE_URL": live_url, "PYTHONPATH": str(REPOSITORY), "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "tests.api.code_blocks", str(REPOSITORY / document)]
    if document not in STAND_ALONE:
        command.append("--with-history")

    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_no_python_is_hidden_behind_another_fence(document: Path) -> None:
    text = (REPOSITORY / document).read_text()
    fences = re.findall(r"^ *(?:```|~~~)+ *([^\s`]+)", text, re.MULTILINE)

    assert [fence for fence in fences if re.match("py|ipython|notebook", fence, re.IGNORECASE)] == [
        "python" for _ in read_blocks(text)
    ]


def test_a_block_is_left_out_for_a_reason_only() -> None:
    text = "# Title\n\n```python\nawait x\n```\n\n1. one\n\n   ```python not run: asks Kraken\n   y\n   ```\n"

    assert read_blocks(text) == [Block(3, "await x\n", ""), Block(9, "y\n", "asks Kraken")]
    with pytest.raises(ValueError, match="line 1: after ```python only"):
        read_blocks("```python slow\nx\n```\n")


def test_what_a_block_raises_shows_its_line(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("```python\nx = 1\n```\n\n```python\nimport asyncio\n\nawait asyncio.sleep(0)\nx / 0\n```\n")

    ran = subprocess.run(
        [sys.executable, "-m", "tests.api.code_blocks", str(document)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ran.returncode == 1
    assert 'page.md", line 9' in ran.stderr
    assert "ZeroDivisionError" in ran.stderr
