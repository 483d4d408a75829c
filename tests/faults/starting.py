"""Starts everything that a scenario acts on."""

import asyncio
import importlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from kraken_history.embedded.process import HOST
from tests.faults.kraken import Kraken
from tests.faults.line import Line
from tests.faults.servers import Database, Fleet, NotHereError, RedisServer, small_disk
from tests.faults.system import SPACING_S, SYMBOLS, AnyRedis, Layout, Place, System, until_true
from tests.support.neighbours import pgbouncer
from tests.support.servers import Flavour
from tests.support.services import CONSUMER, PRODUCER, SIMULATOR, WORKER, Service, simulator_urls

_PLACES: dict[str, tuple[Place, ...]] = {
    "producer": ("redis", "ws", "rest"),
    "consumer": ("database", "redis"),
    "worker": ("database", "redis", "rest"),
}
_ARGUMENTS = {"producer": PRODUCER, "consumer": CONSUMER, "worker": WORKER}
_UP_WITHIN_S = 150.0  # that of a machine that does much else
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
_SETTINGS = {
    "SYMBOLS": ",".join(SYMBOLS),
    "REST_CALL_SPACING_S": str(SPACING_S),
    "REST_TOTAL_SPACING_S": "0.1",
    "LOG_LEVEL": "info",
}


@asynccontextmanager
async def running(fleet: Fleet, layout: Layout, flavour: Flavour, folder: Path, seed: str) -> AsyncIterator[System]:
    """The system with trades flowing into the database."""
    os.makedirs(folder, exist_ok=True)
    async with AsyncExitStack() as stack:
        database = await _database(fleet, layout, flavour, folder, stack)
        name = await database.new_database()
        redis, urls, nodes = await _redis(layout, folder, stack)
        ws_url, rest_url = _simulator(layout, folder, seed, stack)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        system = System(layout, database, name, redis, Kraken(http, rest_url), folder, seed, stack)
        system.redis_urls, system.nodes = urls, nodes
        if layout.redis == "cluster":
            system.cluster_port = nodes[0].port
        await _connect(system, ws_url, rest_url, stack)
        watch = asyncio.create_task(system.keep_watch())
        stack.push_async_callback(asyncio.wait, [watch], timeout=30)
        stack.callback(system.stop_watching)
        system.start(*system.services)
        await until_true(system.everything_is_up, "all services are up", _UP_WITHIN_S)
        await until_true(system.have_started, "all services have given a sign of life", _UP_WITHIN_S)
        await system.kraken.start()
        await system.until_stored(100 + layout.history, within_s=_UP_WITHIN_S)
        yield system
        if watch.done():
            watch.result()


async def _database(fleet: Fleet, layout: Layout, flavour: Flavour, folder: Path, stack: AsyncExitStack) -> Database:
    if layout.disk_mb is None:
        return await fleet.database(flavour, layout.database_settings)
    disk = stack.enter_context(small_disk(fleet.folder / f"disk-{time.monotonic_ns()}", layout.disk_mb))
    database = Database(flavour, disk / "cluster", {"max_wal_size": "64MB", "min_wal_size": "32MB"})
    stack.push_async_callback(database.kill)
    await database.create()
    return database


async def _redis(layout: Layout, folder: Path, stack: AsyncExitStack) -> tuple[AnyRedis, dict[str, str], list[Any]]:
    """The Redis of the signs and jobs, the URLs if the services do not go through lines, and all servers of it."""
    password = secrets.token_hex(8)
    if layout.redis == "sentinel":
        master, replica = await asyncio.to_thread(stack.enter_context, _groups().master_and_replica(password))
        watching = await asyncio.to_thread(stack.enter_context, _groups().sentinels(master, password=password))
        hosts = ",".join(f"{HOST}:{each.port}" for each in watching)
        url = f"redis+sentinel://:{password}@{hosts}/{_groups().MASTER_NAME}/0"
        return _Nodes([master, replica], password), {"REDIS_URL": url}, [master, replica]
    redis = RedisServer(folder / "redis", password)
    stack.push_async_callback(redis.kill)
    await redis.start()
    if layout.redis == "single":
        return redis, {}, []
    nodes = await asyncio.to_thread(stack.enter_context, _groups().cluster(3, replicas=1, password=password))
    hosts = ",".join(f"{HOST}:{node.port}" for node in nodes)
    return redis, {"REDIS_URL": f"redis+cluster://:{password}@{hosts}", "JOBS_REDIS_URL": redis.url()}, nodes


def _groups() -> Any:
    """The module that starts several servers of Redis."""
    try:
        return importlib.import_module("tests.support.redis_servers")
    except ImportError as error:
        raise NotHereError("this version starts no Sentinels and no clusters") from error


class _Nodes:
    """The master of several servers."""

    def __init__(self, nodes: list[Any], password: str) -> None:
        self._nodes = nodes
        self._down: set[int] = set()
        self.password = password

    @property
    def port(self) -> int:
        """The master's port."""
        return int(self._master.port)

    def url(self, port: int | None = None) -> str:
        return f"redis://:{self.password}@{HOST}:{port or self.port}/0"

    async def kill(self) -> None:
        master = self._master
        self._down.add(master.port)
        await asyncio.to_thread(master.kill)

    def freeze(self) -> None:
        master = self._master
        self._down.add(master.port)
        master.freeze()

    def thaw(self) -> None:
        """Nothing: a server that failed over stays away."""

    @property
    def _master(self) -> Any:
        up = [node for node in self._nodes if node.port not in self._down]
        return next((node for node in up if node.is_master()), up[0])


def _simulator(layout: Layout, folder: Path, seed: str, stack: AsyncExitStack) -> tuple[str, str]:
    number = sum(seed.encode())
    options = {
        "port": 0, "rate": layout.rate, "symbols": ",".join(SYMBOLS), "seed": number, "history": layout.history,
        "history-hours": 2, "rest-burst": 60, "rest-rate": 20,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in options.items()]
    log = folder / "simulator.log"
    simulator = stack.enter_context(Service([*SIMULATOR, "--paused", *words], log, {}))
    deadline = time.monotonic() + _UP_WITHIN_S
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
    ports: dict[Place, int] = {"database": database_port, "ws": kraken_port, "rest": kraken_port}
    if not system.redis_urls:
        ports["redis"] = system.redis.port
    for name in layout.services:
        kind = name.partition("-")[0]
        for place in [place for place in _PLACES[kind] if place in ports]:
            system.lines[name, place] = await stack.enter_async_context(Line(ports[place]))
        log = system.folder / f"{name}.log"
        system.services[name] = Service(_ARGUMENTS[kind], log, _environment(system, name, ws_url))
        stack.callback(_put_down, system.services[name])


def _put_down(service: Service) -> None:
    with suppress(AssertionError, ProcessLookupError):  # never started
        service.kill()


def _environment(system: System, name: str, ws_url: str) -> dict[str, str]:
    lines = {place: line for (service, place), line in system.lines.items() if service == name}
    redis_url = system.redis.url(lines["redis"].port) if "redis" in lines else ""
    redis_urls = system.redis_urls or {"REDIS_URL": redis_url}
    environment = {**_SETTINGS, "CONSUMER_NAME": name, **redis_urls}
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
