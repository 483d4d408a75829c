"""The services of docker-compose.yml, as processes of this machine: their commands, environments and checks.

Only what a container network would give is replaced: the addresses of the two servers. They get nothing else of
this process's environment.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from simulator.server import Simulator
from tests.support.compose_file import ENV_FILE, REPOSITORY, environment_of, load_compose

SYMBOLS = ("BTC/USDT", "ETH/USDT")
HEALTHY_WITHIN_S = 40.0
LONG_RUNNING = ("producer", "consumer", "worker")


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    """A Kraken that makes trades."""
    async with Simulator(symbols=SYMBOLS, rate=200, history=100) as simulator:
        yield simulator


class Service:
    """One service of the compose file.

    Args:
        servers: In place of the URLs whose hosts only a container network knows.
    """

    def __init__(self, name: str, env_file: dict[str, str], servers: dict[str, str]) -> None:
        self.name = name
        self._definition: dict[str, Any] = load_compose(env_file)["services"][name]
        self._environment = environment_of(self._definition, env_file) | servers
        self._environment["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        # Each container has its own port 9100; here they would take it from each other.
        self._environment["METRICS_PORT"] = "0"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def grace_s(self) -> float:
        """How long the service may take to stop."""
        match = re.fullmatch(r"(\d+)s", self._definition["stop_grace_period"])
        assert match is not None
        return float(match[1])

    async def start(self) -> None:
        self._process = await self._run(self._definition["command"])

    async def run_once(self) -> None:
        """Run the command to its successful end."""
        assert await (await self._run(self._definition["command"])).wait() == 0

    async def is_healthy(self) -> bool:
        """Run the health check once, as the container engine would."""
        kind, command = self._definition["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        return await (await self._run(["/bin/sh", "-c", command])).wait() == 0

    async def becomes_healthy(self) -> None:
        async with asyncio.timeout(HEALTHY_WITHIN_S):
            while not await self.is_healthy():
                self.must_be_running()
                await asyncio.sleep(0.2)

    def must_be_running(self) -> None:
        assert self._process is not None
        assert self._process.returncode is None, f"{self.name} ended with {self._process.returncode}"

    async def stop(self) -> int:
        """Stop it as the container engine does; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            return await asyncio.wait_for(self._process.wait(), self.grace_s)
        except TimeoutError:
            raise AssertionError(f"{self.name} still runs {self.grace_s:g} s after SIGTERM") from None

    async def kill(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _run(self, command: list[str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, cwd=REPOSITORY, env=self._environment, stdin=asyncio.subprocess.DEVNULL
        )


@pytest.fixture
async def services(database_url: str, redis_url: str, kraken: Simulator) -> AsyncIterator[dict[str, Service]]:
    """Ours, none of them started, on an empty database."""
    env_file = ENV_FILE | {
        "SYMBOLS": ",".join(SYMBOLS),
        "KRAKEN_WS_URL": kraken.ws_url,
        "KRAKEN_REST_URL": kraken.rest_url,
    }
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    made = {name: Service(name, env_file, servers) for name in ("migrate", *LONG_RUNNING)}
    yield made
    for service in made.values():
        await service.kill()


async def trades_arrive(database_url: str, running: Iterable[Service], *, at_least: int) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(30):
            while await connection.fetchval("SELECT count(*) FROM trades") < at_least:
                for service in running:
                    service.must_be_running()
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def test_each_service_starts_becomes_healthy_stores_trades_and_stops(
    services: dict[str, Service], database_url: str
) -> None:
    await services["migrate"].run_once()
    for name in LONG_RUNNING:
        assert not await services[name].is_healthy(), f"{name} does not run yet"
        await services[name].start()
    await asyncio.gather(*(services[name].becomes_healthy() for name in LONG_RUNNING))
    await trades_arrive(database_url, [services[name] for name in LONG_RUNNING], at_least=100)

    exit_codes = {name: await services[name].stop() for name in LONG_RUNNING}

    assert exit_codes == dict.fromkeys(LONG_RUNNING, 0)


async def test_migrating_again_changes_nothing_and_succeeds(services: dict[str, Service]) -> None:
    await services["migrate"].run_once()

    await services["migrate"].run_once()
