"""``up`` against the simulator, as a real process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kraken_history.runtime import liveness
from kraken_history.runtime.signs import encode_sign
from tests.cli.samples import execute
from tests.cli.test_demo import COMMAND, environment, processes_naming
from tests.support.command import Run
from tests.support.servers import Background
from tests.support.signs import PRODUCER, sign

pytestmark = pytest.mark.servers

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment for a data directory of its own and a simulated Kraken."""
    simulator = subprocess.Popen(
        [sys.executable, "-m", "simulator", "--port", "0", "--rate", "50"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert simulator.stdout is not None
    words = simulator.stdout.readline().split()
    yield {
        **environment(tmp_path),
        "KRAKEN_HISTORY_DATA_DIR": str(tmp_path / "data"),
        "KRAKEN_WS_URL": words[3],
        "KRAKEN_REST_URL": words[5].removesuffix("/0/public"),
        "SYMBOLS": "BTC/USDT,ETH/USDT",
    }
    simulator.terminate()
    simulator.communicate(timeout=10)


def until(is_so: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + 40
    while not is_so():
        assert time.monotonic() < give_up, what
        time.sleep(0.1)


@pytest.mark.slow
def test_up_runs_everything_and_leaves_nothing_behind(settings: dict[str, str], tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, *arguments], env=settings, capture_output=True, text=True, check=False)

    def services() -> dict[str, dict[str, object]]:
        told: dict[str, dict[str, object]] = json.loads(command("status", "--json").stdout)["services"]
        return {key.split(":")[0]: sign for key, sign in told.items()}

    log = tmp_path / "up.log"
    with log.open("w") as file:
        up = subprocess.Popen([*COMMAND, "up"], env=settings, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        until(lambda: "\nready: 2 symbols, database 127.0.0.1:" in log.read_text(), "no ready line")
        before = services()
        second = command("up")
        health = [command("health", service).returncode for service in ("producer", "consumer", "worker")]
        killed = before["consumer"]["pid"]
        assert isinstance(killed, int)
        os.kill(killed, signal.SIGKILL)
        until(lambda: services()["consumer"]["pid"] != killed, "the consumer was not started again")
    finally:
        up.send_signal(signal.SIGTERM)
        out, _ = up.communicate(timeout=60)
    written = "".join(path.read_text(errors="replace") for path in (tmp_path / "data/run").iterdir())
    password = command("env").stdout.split(":")[2].split("@")[0]

    assert set(before) == {"producer", "consumer", "worker"}
    assert health == [0, 0, 0]
    assert (second.returncode, second.stdout, second.stderr.count("\n")) == (1, "", 1)
    assert "already running" in second.stderr
    assert (up.returncode, out) == (0, "")
    assert processes_naming(tmp_path) == []
    assert not any(_is_alive(sign["pid"]) for sign in before.values())
    assert len(password) > 20
    assert password not in written
    assert "producer | " in log.read_text()


@pytest.mark.slow
def test_a_sign_of_another_service_does_not_speak_for_the_one_that_is_started(
    settings: dict[str, str], tmp_path: Path, redis_url: str, background: Background
) -> None:
    """Started again with correct SYMBOLS, up once read its predecessor's sign: "Kraken refuses FOO/BAR"."""
    background.run(leave_refusal(redis_url))
    log = tmp_path / "up.log"
    with log.open("w") as file:
        up = subprocess.Popen(
            [*COMMAND, "up"], env={**settings, "REDIS_URL": redis_url}, stdout=subprocess.PIPE, stderr=file, text=True
        )
    try:
        until(lambda: "\nready: 2 symbols" in log.read_text(), "no ready line")
        running = background.run(signs(redis_url))
    finally:
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=60)

    assert "refuses" not in log.read_text()
    assert {name.partition(":")[0] for name in running} == {"producer", "consumer", "worker"}
    assert background.run(signs(redis_url)) == ["producer:former"]  # those of up went with it


async def leave_refusal(redis_url: str) -> None:
    refusal = sign(PRODUCER, pid=2**22 + 1, refused={"FOO/BAR": "Currency pair not supported"})  # no process has it
    async with Redis.from_url(redis_url) as redis:
        await redis.set(f"{liveness.HEALTH_PREFIX}producer:former", encode_sign(refusal), ex=120)


async def signs(redis_url: str) -> list[str]:
    async with Redis.from_url(redis_url) as redis:
        return sorted((await liveness.signs_of_life(redis)).by_name)


@pytest.mark.slow
def test_up_says_that_kraken_cannot_be_reached_and_goes_on(settings: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    with log.open("w") as file:
        nobody = {**settings, "KRAKEN_WS_URL": "ws://127.0.0.1:1/v2"}
        up = subprocess.Popen([*COMMAND, "up"], env=nobody, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        until(
            lambda: "the producer has no session with Kraken at ws://127.0.0.1:1/v2" in log.read_text(),
            "no word about Kraken",
        )
        is_running = up.poll() is None
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)

    assert is_running
    assert up.returncode == 0
    assert "ready:" not in log.read_text()
    assert processes_naming(tmp_path) == []


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_up_with_a_server_that_will_not_do_is_one_line(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    no_redis = command("up", DATABASE_URL=migrated_database_url, REDIS_URL="redis://127.0.0.1:1/0")
    background.run(execute(migrated_database_url, "UPDATE schema_migrations SET name = '9_new.sql' WHERE version = 1"))
    newer = command("up", REDIS_URL=redis_url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = command("up", METRICS_PORT=str(taken.getsockname()[1]))

    for outcome, code, words in ((no_redis, 1, "no Redis answers"), (newer, 1, "newer than"), (port, 2, "is in use")):
        assert (outcome.code, outcome.out) == (code, "")
        assert outcome.err.count("\n") == 1, outcome.err
        assert words in outcome.err


def _is_alive(pid: object) -> bool:
    try:
        return "python" in Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return False
