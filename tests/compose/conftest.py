"""docker-compose.yml as it stands, in containers, with the simulator as Kraken on their network."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kraken_history.cli.simulated import Simulated
from kraken_history.cli.verdict import (
    CandlesVerdict,
    StoredTrades,
    TrueCandle,
    TruthOfSymbol,
    Verdict,
    judge,
    judge_symbol,
)
from kraken_history.database.connections import connect
from kraken_history.embedded.process import free_port
from kraken_history.errors import ServiceUnavailable
from tests.compose.stand_ins import REPOSITORY, NoEngineError, docker, provide_images, require_engine
from tests.support.compose_file import ENV_FILE

PROJECT = "kraken-history-test"
NETWORK = "kraken_network"
SYMBOLS = ("BTC/USDT", "ETH/USDT")
HISTORY = 3_000
OURS = ("migrate", "producer", "consumer", "worker")
_KRAKEN = f"{PROJECT}-kraken"
_EQUAL_WITHIN_S = 150.0


@dataclass(frozen=True)
class Stack:
    """The running system.

    Attributes:
        folder: Holds the override file and the environment.
        database_url: By the port that is published on the host.
        kraken_port: The simulator's port on the host.
        healthy_after_s: Seconds from ``up`` until all services were healthy.
    """

    folder: Path
    database_url: str
    kraken_port: int
    healthy_after_s: float

    def compose(self, *arguments: str, timeout_s: float = 600.0) -> str:
        """Run docker compose on the project's file; its output."""
        return _compose(self.folder, *arguments, timeout_s=timeout_s)

    def containers(self, service: str) -> list[str]:
        """Ids of the running containers of a service."""
        return self.compose("ps", "--quiet", service).split()

    def pid(self, container: str) -> int:
        """The process id of a container's first process, on the host."""
        return int(docker("inspect", "--format", "{{.State.Pid}}", container))

    def is_healthy(self, container: str) -> bool:
        """True if the container runs and its health check passes."""
        state = json.loads(docker("inspect", "--format", "{{json .State}}", container))
        return bool(state["Running"]) and state["Health"]["Status"] == "healthy"

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
        """Wait for a condition that containers bring about."""
        give_up = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up, f"waited {timeout_s:g} s: {what}"
            time.sleep(0.5)

    def settle(self) -> Verdict:
        """Stop trading, wait until the database equals the truth, and trade again; the last verdict."""
        return asyncio.run(self._settle())

    async def _settle(self) -> Verdict:
        give_up = time.monotonic() + _EQUAL_WITHIN_S
        async with Simulated(SYMBOLS, port=self.kraken_port) as kraken:
            await kraken.stop()
            truth = await kraken.truth()
            candles = {symbol: await kraken.candles(symbol) for symbol in SYMBOLS}
            while True:
                verdict = await self._judge(truth, candles)
                if verdict.ok or time.monotonic() > give_up:
                    break
                await asyncio.sleep(0.5)
            await kraken.start()
            return verdict

    async def _judge(self, truth: Mapping[str, TruthOfSymbol], candles: Mapping[str, Sequence[TrueCandle]]) -> Verdict:
        """The verdict; while the database does not answer, that nothing is stored."""
        try:
            connection = await connect(self.database_url)
        except ServiceUnavailable:
            nothing = {name: judge_symbol(each, StoredTrades(0, 0, 0, "")) for name, each in truth.items()}
            return Verdict(nothing, CandlesVerdict(0, 0))
        try:
            return await judge(connection, truth, candles)
        finally:
            await connection.close()


def _compose(folder: Path, *arguments: str, timeout_s: float = 600.0) -> str:
    files = ("--file", str(REPOSITORY / "docker-compose.yml"), "--file", str(folder / "override.yml"))
    return docker(
        "compose", "--project-name", PROJECT, "--project-directory", str(REPOSITORY), *files,
        "--env-file", str(folder / "env"), *arguments, timeout_s=timeout_s,
    )  # fmt: skip


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The system, healthy, with the simulator trading."""
    if "compose" not in request.config.getoption("markexpr"):
        pytest.skip("runs in containers, for minutes: ask for it with pytest -m compose")
    try:
        require_engine()
        provide_images()
    except NoEngineError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("compose")
    ports = [free_port() for _ in range(3)]
    _write_configuration(folder, ports)
    try:
        _compose(folder, "create", "--build")  # makes the network, which Kraken must join before the producer starts
        run_kraken(ports[2])
        began = time.monotonic()
        _compose(folder, "up", "--detach", "--wait", "--wait-timeout", "240")
        took_s = time.monotonic() - began
        yield Stack(folder, f"postgresql://trading:databasepassword@127.0.0.1:{ports[0]}/kraken_data", ports[2], took_s)
    finally:
        docker("rm", "--force", _KRAKEN, check=False)
        _compose(folder, "logs", "--no-color", "--tail", "100")
        _compose(folder, "down", "--volumes", "--timeout", "10")


def run_kraken(port: int) -> None:
    """Start the simulator on the network, under the name ``kraken``."""
    options = ["--rate", "50", "--history", str(HISTORY), "--rest-rate", "50", "--symbols", ",".join(SYMBOLS)]
    docker(
        "run", "--detach", "--name", _KRAKEN, "--network", NETWORK, "--network-alias", "kraken",
        "--publish", f"127.0.0.1:{port}:8080", "--volume", f"{REPOSITORY / 'simulator'}:/app/simulator:ro",
        _image(), "python", "-m", "simulator", "--host", "0.0.0.0", "--port", "8080", *options,
    )  # fmt: skip


def leave_network() -> None:
    """Take the simulator off the network, so that ``down`` can remove it."""
    docker("network", "disconnect", NETWORK, _KRAKEN)


def join_network() -> None:
    """Bring the simulator back on the network."""
    docker("network", "connect", "--alias", "kraken", NETWORK, _KRAKEN)


def _image() -> str:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    image: str = compose["services"]["worker"]["image"]
    return image


def _write_configuration(folder: Path, ports: list[int]) -> None:
    # The build may need the host's network to reach a package index, and nothing else of the file is changed.
    build = {"build": {"context": str(REPOSITORY), "network": "host"}}
    (folder / "override.yml").write_text(yaml.safe_dump({"services": dict.fromkeys(OURS, build)}))
    lines = {
        **ENV_FILE,
        "DB_PORT": ports[0],
        "REDIS_PORT": ports[1],
        "DB_SHARED_BUFFERS": "128MB",
        "KRAKEN_WS_URL": "ws://kraken:8080/v2",
        "KRAKEN_REST_URL": "http://kraken:8080",
        "REST_CALL_SPACING_S": "0.05",
        "SYMBOLS": ",".join(SYMBOLS),
    }
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))


def kill(pid: int) -> None:
    """Kill a container's first process. Unlike ``docker kill``, this counts as a crash, so the container restarts."""
    if os.geteuid() != 0:
        pytest.skip("only root may kill the processes of containers")
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
