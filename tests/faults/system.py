"""The whole system, running: simulator, producers, consumers and workers, each with its own line to each server."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol

import asyncpg
import msgspec
import psutil
from msgspec import Struct
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from kraken_history.embedded.process import HOST
from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.signs import ProducerSign, WorkerSign
from kraken_history.stream import wire
from tests.faults.kraken import Kraken
from tests.faults.line import Line
from tests.faults.servers import Database, RedisServer
from tests.support.services import Service

SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
SPACING_S = 0.25
"""Seconds between two calls to REST for one pair."""

Place = Literal["database", "redis", "ws", "rest"]
_RESTART_S = 1.0  # as a supervisor restarts what ended


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
        redis: One server behind lines; or several of them, which the services reach directly.
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
    redis: Literal["single", "sentinel", "cluster"] = "single"

    @property
    def shards(self) -> int:
        """Number of shards of the streams."""
        return int(self.settings.get("STREAM_SHARDS", "1"))

    @property
    def services(self) -> list[str]:
        """The names of all services, such as ``consumer`` and ``consumer-2``."""
        counts = {"producer": self.producers, "consumer": self.consumers, "worker": self.workers}
        return [kind if n == 1 else f"{kind}-{n}" for kind, count in counts.items() for n in range(1, count + 1)]


Streams = Redis | RedisCluster


class AnyRedis(Protocol):
    """A Redis as scenarios use it."""

    password: str

    @property
    def port(self) -> int:
        """Its port."""

    def url(self, port: int | None = None) -> str:
        """Its URL, or that through a line."""

    async def kill(self) -> None:
        """SIGKILL."""

    def freeze(self) -> None:
        """SIGSTOP."""

    def thaw(self) -> None:
        """SIGCONT."""


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
        self, layout: Layout, database: Database, database_name: str, redis: AnyRedis, kraken: Kraken, folder: Path,
        seed: str, stack: AsyncExitStack,
    ) -> None:  # fmt: skip
        self._stack = stack
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
        self.redis_urls: dict[str, str] = {}
        self.nodes: list[Any] = []
        self.cluster_port: int | None = None
        self._wanted: set[str] = set()
        self._started: set[str] = set()
        self._is_over = asyncio.Event()

    @property
    def own_redis(self) -> RedisServer:
        """The Redis, of a scenario with one server."""
        assert isinstance(self.redis, RedisServer)
        return self.redis

    # Services

    def start(self, *names: str) -> None:
        """Start services, or start them again."""
        for name in names:
            self.services[name].start()
            self._wanted.add(name)
            self._started.add(name)

    def kill(self, *names: str) -> None:
        """SIGKILL; they stay down until :meth:`start`."""
        for name in names:
            self._wanted.discard(name)
            self._started.discard(name)
            self.services[name].send(signal.SIGCONT)
            self.services[name].kill()

    async def terminate(self, *names: str) -> None:
        """SIGTERM, and wait; they must end with exit code 0."""
        self._wanted -= set(names)
        self._started -= set(names)
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

    async def have_started(self) -> bool:
        """True once each service that was started has given a sign of life."""
        try:
            async with self.redis_client() as redis:
                pids = {sign.pid for sign in (await signs_of_life(redis)).by_name.values()}
        except (RedisError, OSError):
            return False
        self._started = {name for name in self._started if self.services[name].pid not in pids}
        return not self._started

    async def until_started(self, within_s: float = 60.0) -> None:
        """Wait until each service that was started has given a sign of life: before, a signal ends it at once."""
        await until_true(self.have_started, "the services have started", within_s)

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
        before = -1
        give_up = time.monotonic() + within_s
        while before < 0 and time.monotonic() < give_up:
            before = await self.stored()

        async def are_there() -> bool:
            return await self.stored() >= before + more

        await until_true(are_there, f"{more} more trades stored", within_s)

    async def until_traded(self, more: int, within_s: float = 60.0) -> None:
        """Wait until Kraken has made so many more trades."""
        target = await self.kraken.emitted() + more

        async def are_there() -> bool:
            return await self.kraken.emitted() >= target

        await until_true(are_there, f"{more} more trades made", within_s)

    async def make_hole(self, trades: int = 400) -> None:
        """Reset the producers' sockets, and let no new one through for so many trades.

        The snapshot of a new connection does not make up for them. The new connection waits instead of being refused,
        so that no pause between attempts to connect follows.
        """
        lines = self.lines_to("ws")
        for line in lines:
            line.hang()
            await line.reset()
        await self.until_traded(trades)
        for line in lines:
            await line.restore()

    async def until_refused(self, words: str, within_s: float = 20.0) -> None:
        """Wait until Redis refuses a write with these words."""

        async def is_refused() -> bool:
            async with self.redis_client() as redis:
                try:
                    await redis.set("faults", 1, ex=1)
                except RedisError as error:
                    return words in str(error) or words.lower() in type(error).__name__.lower()
                return False

        await until_true(is_refused, f"Redis refuses a write with {words}", within_s)

    # Servers, past the lines

    def at_end(self, call: Callable[[], Awaitable[object]]) -> None:
        """Call this after the check."""
        self._stack.push_async_callback(call)

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
        client = Redis.from_url(self.redis.url(), socket_timeout=5, socket_connect_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()

    @asynccontextmanager
    async def streams_client(self) -> AsyncIterator[Streams]:
        """A client of the Redis that has the streams."""
        if self.cluster_port is None:
            async with self.redis_client() as client:
                yield client
            return
        cluster = RedisCluster(
            host=HOST, port=self.cluster_port, password=self.redis.password, socket_timeout=5, socket_connect_timeout=5
        )
        try:
            yield cluster
        finally:
            await cluster.aclose()

    @property
    def streams(self) -> list[str]:
        """The names of all streams that the consumers read."""
        shards = range(self.layout.shards)
        return [name for shard in shards for name in (wire.trades_stream(shard), wire.candles_stream(shard))]

    # Keeping watch

    async def keep_watch(self) -> None:
        """Start again what ended by itself, as a supervisor does, and note what grows."""
        while not self._is_over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._is_over.wait()
            for name in sorted(self._wanted):
                if not self.services[name].is_running():
                    self.ended += 1
                    await asyncio.sleep(_RESTART_S)
                    if name in self._wanted:
                        self.services[name].start()
            self._note_memory()
            with suppress(RedisError, OSError, TimeoutError):
                async with self.streams_client() as redis:
                    for stream in self.streams:
                        self.longest_stream = max(self.longest_stream, await redis.xlen(stream))

    def stop_watching(self) -> None:
        """End :meth:`keep_watch`; a cancellation may be lost in a client of Redis."""
        self._is_over.set()
        self._wanted.clear()

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


async def until_true(condition: Callable[[], bool | Awaitable[bool]], what: str, within_s: float) -> None:
    """Wait for a condition; if it does not come true, the error says what was waited for."""
    give_up = time.monotonic() + within_s
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited {within_s:g} s: {what}")
        await asyncio.sleep(0.05)
