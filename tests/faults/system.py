"""The whole system, running: simulator, producers, consumers and workers, each with a line of its own to each server."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import msgspec
import psutil
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kraken_history.cli.verdict import TrueCandle, TruthOfSymbol
from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.signs import ProducerSign, WorkerSign
from kraken_history.stream import wire
from tests.faults.line import Line
from tests.faults.servers import Database, Fleet, NotHereError, RedisServer, small_disk
from tests.support.neighbours import pgbouncer
from tests.support.servers import Flavour
from tests.support.services import CONSUMER, PRODUCER, SIMULATOR, WORKER, Service, simulator_urls
from tests.support.waiting import until

SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
SPACING_S = 0.25
"""Seconds between two calls to REST for one pair."""

Place = Literal["database", "redis", "ws", "rest"]
_PLACES: dict[str, tuple[Place, ...]] = {
    "producer": ("redis", "ws", "rest"),
    "consumer": ("database", "redis"),
    "worker": ("database", "redis", "rest"),
}
_ARGUMENTS = {"producer": PRODUCER, "consumer": CONSUMER, "worker": WORKER}
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
_RESTART_S = 1.0  # as a supervisor restarts what ended
_SETTINGS = {
    "SYMBOLS": ",".join(SYMBOLS),
    "REST_CALL_SPACING_S": str(SPACING_S),
    "REST_TOTAL_SPACING_S": "0.1",
    "LOG_LEVEL": "info",
}


class Layout(Struct, frozen=True):
    """How many of what a scenario needs.

    Attributes:
        rate: Trades per second.
        history: Trades before the start, which the worker fetches.
        settings: Settings of the services.
        database_settings: Settings of PostgreSQL: the scenario gets a cluster of its own.
        clocks: By service: seconds by which its clock is ahead.
        pool_mode: That of a PgBouncer in front of the database; None for none.
        disk_mb: Size of the disk of a cluster of its own.
    """

    producers: int = 1
    consumers: int = 1
    workers: int = 1
    rate: float = 150.0
    history: int = 0
    settings: Mapping[str, str] = {}
    database_settings: Mapping[str, str] = {}
    clocks: Mapping[str, int] = {}
    pool_mode: str | None = None
    disk_mb: int | None = None

    @property
    def services(self) -> list[str]:
        """The names of all services, such as ``consumer`` and ``consumer-2``."""
        counts = {"producer": self.producers, "consumer": self.consumers, "worker": self.workers}
        return [kind if n == 1 else f"{kind}-{n}" for kind, count in counts.items() for n in range(1, count + 1)]


class Kraken:
    """Controls and truth of a running simulator."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def ask(self, method: str, path: str, body: Any = None, **query: str) -> bytes:
        """The answer of an endpoint that Kraken does not have."""
        url = self._url + path
        async with self._http.request(method, url, params=query, json=body, raise_for_status=True) as answer:
            return await answer.read()

    async def start(self) -> None:
        """Trade."""
        await self.ask("POST", "/control/start")

    async def stop(self) -> None:
        """Stop trading. REST stays."""
        await self.ask("POST", "/control/stop")

    async def disconnect(self) -> None:
        """Cut every WebSocket."""
        await self.ask("POST", "/control/disconnect")

    async def emitted(self) -> int:
        """Trades so far."""
        return int(msgspec.json.decode(await self.ask("GET", "/control/state"))["emitted"])

    async def truth(self) -> dict[str, TruthOfSymbol]:
        """Summary of all trades."""
        return msgspec.json.decode(await self.ask("GET", "/truth"), type=dict[str, TruthOfSymbol])

    async def candles(self, symbol: str) -> list[TrueCandle]:
        """All one-minute candles."""
        body = await self.ask("GET", "/truth/candles", symbol=symbol, interval="1")
        return msgspec.json.decode(body, type=_Candles).candles

    async def trades(self, symbol: str, from_id: int) -> list[dict[str, Any]]:
        """Trades from an id on."""
        body = await self.ask("GET", "/truth/trades", symbol=symbol, from_id=str(from_id))
        found: list[dict[str, Any]] = msgspec.json.decode(body)["trades"]
        return found


class _Candles(Struct):
    candles: list[TrueCandle]


class System:
    """What a scenario acts on.

    Attributes:
        random: Everything that a scenario draws comes from it.
        complaints: Everything that went wrong beside the data, in words.
        ended: How often a service ended by itself.
        longest_stream: Most entries in one stream.
        most_memory: Most bytes that one service took.
    """

    def __init__(
        self, layout: Layout, database: Database, database_name: str, redis: RedisServer, kraken: Kraken, folder: Path,
        seed: str,
    ) -> None:  # fmt: skip
        self.layout = layout
        self.database = database
        self.database_name = database_name
        self.redis = redis
        self.kraken = kraken
        self.folder = folder
        self.random = Random(seed)
        self.services: dict[str, Service] = {}
        self.lines: dict[tuple[str, Place], Line] = {}
        self.complaints: list[str] = []
        self.ended = 0
        self.longest_stream = 0
        self.most_memory = 0
        self.stays_stopped = False
        self._wanted: set[str] = set()

    # Services

    def start(self, *names: str) -> None:
        """Start services, or start them again."""
        for name in names:
            self.services[name].start()
            self._wanted.add(name)

    def kill(self, *names: str) -> None:
        """SIGKILL; they stay down until :meth:`start`."""
        for name in names:
            self._wanted.discard(name)
            self.services[name].send(signal.SIGCONT)
            self.services[name].kill()

    async def terminate(self, *names: str) -> None:
        """SIGTERM, and wait; they must end with exit code 0."""
        self._wanted -= set(names)
        codes = await asyncio.gather(*(asyncio.to_thread(self.services[name].terminate) for name in names))
        self.complaints += [f"{name} ended with {code}" for name, code in zip(names, codes, strict=True) if code]

    async def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP for some time."""
        self.services[name].send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.services[name].send(signal.SIGCONT)

    def freeze_for_good(self, name: str) -> None:
        """SIGSTOP, without an end."""
        self._wanted.discard(name)
        self.services[name].send(signal.SIGSTOP)

    def line(self, service: str, place: Place) -> Line:
        """The line of one service to one server."""
        return self.lines[service, place]

    def lines_to(self, *places: Place) -> list[Line]:
        """The lines of all services to these servers."""
        return [line for (_, place), line in self.lines.items() if place in places]

    # Waiting

    async def pause(self, least_s: float, most_s: float) -> None:
        """Let a time go by, drawn from the seed."""
        await asyncio.sleep(self.random.uniform(least_s, most_s))

    async def stored(self) -> int:
        """Stored trades, by the ledger; -1 while the database does not answer."""
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return int((await self.fetch("SELECT coalesce(sum(total_records), 0) FROM data_sync_status WHERE"
                                         " data_type = 'trades'"))[0][0])  # fmt: skip
        return -1

    async def until_stored(self, more: int, within_s: float = 60.0) -> None:
        """Wait until so many more trades are stored than now."""
        before = await self.stored()

        async def are_there() -> bool:
            return await self.stored() >= before + more

        await until(are_there, timeout_s=within_s)

    async def until_traded(self, more: int, within_s: float = 60.0) -> None:
        """Wait until Kraken has made so many more trades."""
        target = await self.kraken.emitted() + more

        async def are_there() -> bool:
            return await self.kraken.emitted() >= target

        await until(are_there, timeout_s=within_s)

    async def until_said(self, name: str, words: str, within_s: float = 60.0) -> None:
        """Wait for words in a service's log."""
        await until(lambda: words in self.services[name].output, timeout_s=within_s)

    async def make_hole(self, trades: int = 400) -> None:
        """Cut the producers off for so many trades that the snapshot of a new connection does not make up for them."""
        lines = self.lines_to("ws")
        for line in lines:
            await line.cut()
        await self.until_traded(trades)
        for line in lines:
            await line.restore()

    # Servers, past the lines

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the scenario's database."""
        async with asyncio.timeout(10):
            connection = await self.connect()
            try:
                return await connection.fetch(query, *arguments)
            finally:
                connection.terminate()

    async def connect(self) -> asyncpg.Connection:
        """A connection to the scenario's database."""
        return await asyncpg.connect(self.database.url(self.database_name), timeout=5)

    @asynccontextmanager
    async def redis_client(self) -> AsyncIterator[Redis]:
        """A client of the scenario's Redis."""
        client = Redis.from_url(self.redis.url(), socket_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()

    # Keeping watch

    async def keep_watch(self) -> None:
        """Start again what ended by itself, as a supervisor does, and note what grows."""
        while True:
            await asyncio.sleep(0.5)
            for name in sorted(self._wanted):
                if not self.services[name].is_running():
                    self.ended += 1
                    await asyncio.sleep(_RESTART_S)
                    if name in self._wanted:
                        self.services[name].start()
            self._note_memory()
            with suppress(RedisError, OSError, TimeoutError):
                async with self.redis_client() as redis:
                    for stream in (wire.trades_stream(0), wire.candles_stream(0)):
                        self.longest_stream = max(self.longest_stream, await redis.xlen(stream))

    def _note_memory(self) -> None:
        for name in self._wanted:
            with suppress(psutil.NoSuchProcess, AssertionError):
                self.most_memory = max(self.most_memory, psutil.Process(self.services[name].pid).memory_info().rss)

    async def everything_is_up(self) -> bool:
        """True once all services have given a sign of life, and the producers receive."""
        try:
            async with self.redis_client() as redis:
                signs = await signs_of_life(redis)
        except (RedisError, OSError):
            return False
        producers, workers = list(signs.of(ProducerSign)), list(signs.of(WorkerSign))
        clients = msgspec.json.decode(await self.kraken.ask("GET", "/control/state"))["clients"]
        kinds = {name.partition(":")[0] for name in signs.by_name}
        return (
            kinds == {"producer", "consumer", "worker"}
            and all(sign.healthy for sign in (*producers, *workers))
            and clients >= self.layout.producers
        )


@asynccontextmanager
async def running(fleet: Fleet, layout: Layout, flavour: Flavour, folder: Path, seed: str) -> AsyncIterator[System]:
    """The system with trades flowing into the database."""
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        database = await _database(fleet, layout, flavour, folder, stack)
        name = await database.new_database()
        redis = RedisServer(folder / "redis")
        stack.push_async_callback(redis.kill)
        await redis.start()
        ws_url, rest_url = _simulator(layout, folder, seed, stack)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        system = System(layout, database, name, redis, Kraken(http, rest_url), folder, seed)
        await _connect(system, ws_url, rest_url, stack)
        watch = asyncio.create_task(system.keep_watch())
        stack.push_async_callback(_end, watch)
        system.start(*system.services)
        await until(system.everything_is_up, timeout_s=60)
        await system.kraken.start()
        await system.until_stored(100 + layout.history)
        yield system


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        raise error


async def _database(fleet: Fleet, layout: Layout, flavour: Flavour, folder: Path, stack: AsyncExitStack) -> Database:
    if layout.disk_mb is None:
        return await fleet.database(flavour, layout.database_settings)
    disk = stack.enter_context(small_disk(fleet.folder / f"disk-{time.monotonic_ns()}", layout.disk_mb))
    database = Database(flavour, disk / "cluster", {"max_wal_size": "64MB", "min_wal_size": "32MB"})
    stack.push_async_callback(database.kill)
    await database.create()
    return database


def _simulator(layout: Layout, folder: Path, seed: str, stack: AsyncExitStack) -> tuple[str, str]:
    number = sum(seed.encode())
    options = {
        "port": 0, "rate": layout.rate, "symbols": ",".join(SYMBOLS), "seed": number, "history": layout.history,
        "history-hours": 2, "rest-burst": 60, "rest-rate": 20,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in options.items()]
    log = folder / "simulator.log"
    simulator = stack.enter_context(Service([*SIMULATOR, "--paused", *words], log, {}))
    deadline = time.monotonic() + 30
    while (urls := simulator_urls(simulator.output)) is None:
        assert simulator.is_running(), simulator.output
        assert time.monotonic() < deadline, simulator.output
        time.sleep(0.05)
    return urls


async def _connect(system: System, ws_url: str, rest_url: str, stack: AsyncExitStack) -> None:
    layout = system.layout
    database_port = system.database.port
    if layout.pool_mode is not None:
        pooled = stack.enter_context(pgbouncer(system.database.url(system.database_name), pool_mode=layout.pool_mode))
        database_port = urlsplit(pooled).port or 0
    kraken_port = urlsplit(rest_url).port or 0
    ports: dict[Place, int] = {
        "database": database_port, "redis": system.redis.port, "ws": kraken_port, "rest": kraken_port
    }  # fmt: skip
    for name in layout.services:
        kind = name.partition("-")[0]
        for place in _PLACES[kind]:
            system.lines[name, place] = await stack.enter_async_context(Line(ports[place]))
        log = system.folder / f"{name}.log"
        system.services[name] = Service(_ARGUMENTS[kind], log, _environment(system, name, ws_url))
        stack.callback(_put_down, system.services[name])


def _put_down(service: Service) -> None:
    with suppress(AssertionError, ProcessLookupError):  # never started
        service.kill()


def _environment(system: System, name: str, ws_url: str) -> dict[str, str]:
    lines = {place: line for (service, place), line in system.lines.items() if service == name}
    environment = {**_SETTINGS, "CONSUMER_NAME": name, "REDIS_URL": system.redis.url(lines["redis"].port)}
    if "database" in lines:
        environment["DATABASE_URL"] = system.database.url(system.database_name, lines["database"].port)
    if "ws" in lines:
        environment["KRAKEN_WS_URL"] = f"ws://127.0.0.1:{lines['ws'].port}{urlsplit(ws_url).path}"
    if "rest" in lines:
        environment["KRAKEN_REST_URL"] = f"http://127.0.0.1:{lines['rest'].port}"
    if offset_s := system.layout.clocks.get(name, 0):
        environment |= shifted_clock(offset_s)
    return environment | dict(system.layout.settings)


def shifted_clock(offset_s: int) -> dict[str, str]:
    """The environment of a process whose clock is off. Its monotonic clock is right."""
    if not os.path.exists(_FAKETIME):
        raise NotHereError("libfaketime is not installed (Debian: apt-get install faketime)")
    return {"LD_PRELOAD": _FAKETIME, "FAKETIME": f"{offset_s:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
