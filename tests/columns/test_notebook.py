"""``examples/notebook.py`` as a process."""

import subprocess
import sys
from pathlib import Path

import pytest

from kraken_history.provider import HistoricalDataProvider
from tests.columns.conftest import SYMBOL

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_the_notebook_reads_frames_and_draws(
    provider: HistoricalDataProvider, migrated_database_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples/notebook.py"],
        cwd=tmp_path,
        env={"DATABASE_URL": migrated_database_url, "PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"stored: {SYMBOL}\n")
    assert "candles, from 2026-01-" in done.stdout
    assert (tmp_path / "notebook.png").read_bytes().startswith(b"\x89PNG")
