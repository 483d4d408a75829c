"""Simulator, producer, consumer and worker as processes, and the comparison of their database with the truth."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from kraken_history.completeness.holes import find_holes
from kraken_history.database.connections import create_pool
from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.redis_access import connect_redis
from tests.support.services import CONSUMER, PRODUCER, SIMULATOR, WORKER, Service, simulator_urls
from tests.support.waiting import until

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


class WholeChain:
    """The running processes."""

    def __init__(
        self, pool: asyncpg.Pool, http: aiohttp.ClientSession, rest_url: str, folder: Path, settings: Mapping[str, str]
    ) -> None:
        self.pool = pool
        self.services: dict[str, Service] = {}
        self._folder = folder
        self._settings = settings
        self._http = http
        self._rest_url = rest_url

    async def _ask(self, method: str, path: str) -> Any:
        async with self._http.request(method, self._rest_url + path) as response:
            assert response.status == 200
            return await response.json()

    async def newest_ids(self) -> dict[str, int]:
        rows = await self.pool.fetch("SELECT symbol, max(id) FROM trades GROUP BY symbol")
        return {row[0]: row[1] for row in rows}

    async def stores_what_happens_now(self) -> float:
        """Wait until each symbol has trades that the exchange had not emitted yet; return the seconds."""
        began = time.monotonic()
        last = {symbol: of["last_id"] for symbol, of in (await self._ask("GET", "/truth")).items() if symbol in SYMBOLS}

        async def are_stored() -> bool:
            newest = await self.newest_ids()
            return all(newest.get(symbol, -1) > last[symbol] for symbol in SYMBOLS)

        await until(are_stored, timeout_s=60)
        return time.monotonic() - began

    async def ends_equal(self) -> None:
        """Stop the exchange, and wait until every trade since the first stored one is stored once."""
        await self._ask("POST", "/control/stop")
        truth = await self._ask("GET", "/truth")
        last = {symbol: truth[symbol]["last_id"] for symbol in SYMBOLS}

        async def is_complete() -> bool:
            return await self.newest_ids() == last and await find_holes(self.pool) == {}

        await until(is_complete, timeout_s=60)
        counted = "SELECT symbol, count(*), max(id) - min(id) + 1 FROM trades GROUP BY symbol"
        assert all(count == expected for _, count, expected in await self.pool.fetch(counted))

    async def command(self, *arguments: str) -> str:
        """The output of a command with the settings of the services; it must succeed."""
        code, output = await self._run(*arguments)
        assert code == 0, output
        return output

    async def becomes_healthy(self, name: str) -> None:
        """Wait until `health` says that a service is well: its last sign of life may be two seconds old."""

        async def is_healthy() -> bool:
            return (await self._run("health", name))[0] == 0

        await until(is_healthy)

    async def _run(self, *arguments: str) -> tuple[int, str]:
        with Service(["-m", "kraken_history", *arguments], self._folder / "command.log", self._settings) as command:
            return await asyncio.to_thread(command.wait), command.output

    def all_run(self) -> None:
        """Check that no process has ended, and none has printed a traceback."""
        for name, service in self.services.items():
            assert service.is_running(), (name, service.output[-2000:])
            assert "Traceback" not in service.output, (name, service.output[-5000:])

    def said(self, name: str, event: str) -> int:
        """How often a service has logged an event."""
        return self.services[name].output.count(f'"event": "{event}"')


@asynccontextmanager
async def whole_chain(
    database_url: str, folder: Path, *, rate: int = 300, **environment: str
) -> AsyncIterator[WholeChain]:
    """Start everything, and wait until all services are healthy and trades are stored."""
    async with AsyncExitStack() as stack:
        arguments = ["--port", "0", "--rate", str(rate), "--symbols", ",".join(SYMBOLS), "--rest-burst", "1000000"]
        simulator = stack.enter_context(Service([*SIMULATOR, *arguments], folder / "simulator.log", {}))
        await until(lambda: simulator_urls(simulator.output))
        urls = simulator_urls(simulator.output)
        assert urls is not None
        settings = {
            "DATABASE_URL": database_url,
            "KRAKEN_WS_URL": urls[0],
            "KRAKEN_REST_URL": urls[1],
            "SYMBOLS": ",".join(SYMBOLS),
            "REST_CALL_SPACING_S": "0.01",
            "REST_TOTAL_SPACING_S": "0.01",
            "HEAL_DELAY_S": "0.1",
            "RECLAIM_AFTER_S": "1",
            "LOG_JSON": "true",
            **environment,
        }
        pool = await stack.enter_async_context(await create_pool(database_url, min_size=1, max_size=2))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        chain = WholeChain(pool, http, urls[1], folder, settings)
        for name, argv in {"producer": PRODUCER, "consumer": CONSUMER, "worker": WORKER}.items():
            chain.services[name] = stack.enter_context(
                Service(argv, folder / f"{name}.log", settings | {"CONSUMER_NAME": "one"})
            )
        async with await connect_redis(environment.get("JOBS_REDIS_URL") or environment["REDIS_URL"]) as redis:

            async def are_healthy() -> bool:
                signs = (await signs_of_life(redis)).by_name
                return {name.partition(":")[0] for name, sign in signs.items() if sign.healthy} == chain.services.keys()

            await until(are_healthy, timeout_s=60)
        await chain.stores_what_happens_now()
        yield chain
