"""``examples/notebook.py`` where there is nothing to show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kraken_history.completeness.covered_time import cover
from kraken_history.database.connections import create_pool
from kraken_history.records import TimeRange
from tests.examples.testers import REPOSITORY
from tests.support.examples import NOON

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def run_notebook(database_url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPOSITORY / "examples/notebook.py"],
        cwd=folder,
        env={"DATABASE_URL": database_url, "PATH": os.environ["PATH"], "MPLCONFIGDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_empty_database_is_told_in_one_line(migrated_database_url: str, tmp_path: Path) -> None:
    done = run_notebook(migrated_database_url, tmp_path)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("nothing is stored yet")


async def test_a_symbol_without_candles_is_told_in_one_line(migrated_database_url: str, tmp_path: Path) -> None:
    """It is known since Kraken was asked about it."""
    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        await cover(pool, "BTC/USDT", TimeRange(NOON, NOON.replace(hour=13)))
    done = run_notebook(migrated_database_url, tmp_path)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("of BTC/USDT no candles are stored")
