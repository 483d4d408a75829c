"""``demo`` from end to end, as a real process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.samples import store, trade
from tests.support.command import Run
from tests.support.servers import Background

pytestmark = pytest.mark.servers

COMMAND = [sys.executable, "-m", "kraken_history"]


def environment(tmp_path: Path) -> dict[str, str]:
    """Temporary folders go where the test can look for what is left."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def processes_naming(path: Path) -> list[str]:
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(path) in line]


@pytest.mark.slow
def test_the_demo_proves_that_nothing_was_lost(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--seconds", "2", "--rate", "300", "--seed", "5", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    verdict = json.loads(done.stdout)
    sent = {name: symbol["sent"] for name, symbol in verdict["symbols"].items()}

    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert list(verdict) == ["ok", "seconds", "symbols", "candles"]
    assert (verdict["ok"], verdict["seconds"]) == (True, 2)
    assert list(sent) == ["XRP/USDT", "BTC/USDT", "XRP/BTC", "ETH/USDT", "SOL/USDT"]
    assert 300 < sum(sent.values()) < 1500
    assert all(
        symbol == {"sent": sent[name], "stored": sent[name], "missing": 0, "duplicates": 0}
        for name, symbol in verdict["symbols"].items()
    )
    assert verdict["candles"]["checked"] >= 5
    assert verdict["candles"]["mismatched"] == 0
    assert list(tmp_path.iterdir()) == []
    assert processes_naming(tmp_path) == []


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--seconds", "60"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "starting" in process.stderr.readline()
    while not list(tmp_path.glob("*/logs/producer.log")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)

    assert (process.returncode, out) == (1, "")
    assert errors.endswith("kraken-history: stopped before the verdict\n")
    assert list(tmp_path.iterdir()) == []
    assert processes_naming(tmp_path) == []


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_a_database_with_trades_is_refused(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    background.run(store(migrated_database_url, [trade(1)]))

    outcome = command("demo", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)

    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "holds data already" in outcome.err
