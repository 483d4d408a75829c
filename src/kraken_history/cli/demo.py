"""``demo``: run the whole chain against the simulator, and compare the database with the sent data."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import asyncpg
import msgspec
from redis.asyncio import Redis

from kraken_history.cli.chain import Chain, claimed
from kraken_history.cli.checkout import find_checkout
from kraken_history.cli.demo_table import DemoTable
from kraken_history.cli.progress import fetch_progress
from kraken_history.cli.servers import Endpoints, embedded_redis_url, endpoints_that_are_set
from kraken_history.cli.simulated import Simulated
from kraken_history.cli.verdict import TruthOfSymbol, Verdict, judge
from kraken_history.database.connections import connect
from kraken_history.embedded import Servers
from kraken_history.errors import HistoryError, ServiceUnavailable, UsageError
from kraken_history.runtime.processes import run_until
from kraken_history.runtime.redis_access import connect_both
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.settings import Settings
from kraken_history.stream.backlog import fetch_streams
from kraken_history.urls import without_password

READY_TIMEOUT_S = 90.0
"""Maximum seconds from the start of the services until all of them are healthy."""

DRAIN_TIMEOUT_S = 60.0
"""Maximum seconds from the stop of the simulator until everything that it sent is stored."""

_REFRESH_S = 0.25


class Interrupted(HistoryError):
    """The demo was stopped before its end."""


class Demo:
    """One run of the demo."""

    def __init__(self, settings: Settings, *, seconds: int, seed: int, rate: float, shows_table: bool) -> None:
        self._settings = settings
        self._seconds = seconds
        self._simulated = Simulated(settings.symbols, seed=seed, rate=rate)
        self._table = DemoTable(settings.symbols, is_shown=shows_table)
        self._verdict: Verdict | None = None

    def run(self) -> Verdict:
        """Start everything, let it run, stop the source, drain, and compare. Everything is stopped in the end.

        Raises:
            UsageError: The configured servers hold data already, or the embedded ones are not installed.
            ServiceUnavailable: A server or service did not start.
            Interrupted: A signal stopped it before the verdict.
        """
        with ExitStack() as stack:
            data_dir = stack.enter_context(_temporary_data_dir())
            lock_file = stack.enter_context(claimed(data_dir))
            servers: Servers | None = None
            database_url, redis_url = endpoints_that_are_set(self._settings)
            jobs_redis_url = ""
            if database_url and redis_url:
                jobs_redis_url = self._settings.given_jobs_redis_url or redis_url
                asyncio.run(_check_empty(database_url, redis_url, jobs_redis_url))
            else:
                if database_url or redis_url:
                    sys.stderr.write(
                        "only one of DATABASE_URL and REDIS_URL is set: the demo runs both servers itself\n"
                    )
                servers = Servers(data_dir, durable=False)
                stack.enter_context(servers.claim_up())
                servers.prepare()
                database_url, redis_url = servers.database_url, embedded_redis_url(servers, self._settings)
            chain = Chain(
                data_dir,
                lock_file,
                Endpoints(database_url, redis_url, jobs_redis_url),
                servers=servers,
                settings={**self._simulated.settings, "METRICS_PORT": ""},
                extra=[self._simulated.program(find_checkout())],
            )
            asyncio.run(self._run_until_stopped(chain))
        if self._verdict is None:
            raise Interrupted("stopped before the verdict")
        return self._verdict

    def as_json(self, verdict: Verdict) -> str:
        """The verdict as one line of JSON."""
        symbols = {
            name: {
                "sent": symbol.sent,
                "stored": symbol.stored,
                "missing": symbol.missing,
                "duplicates": symbol.duplicates,
            }
            for name, symbol in verdict.symbols.items()
        }
        body = {"ok": verdict.ok, "seconds": self._seconds, "symbols": symbols, "candles": verdict.candles}
        return msgspec.json.encode(body).decode()

    async def _run_until_stopped(self, chain: Chain) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with chain.supervisor:
            await run_until(stop, self._run(chain))

    async def _run(self, chain: Chain) -> None:
        with self._table:
            self._table.say("starting the servers, the simulator and the services")
            await chain.start()
            async with AsyncExitStack() as stack:
                urls = chain.endpoints.redis_url, chain.endpoints.jobs_redis_url
                streams, redis = await stack.enter_async_context(connect_both(*urls))
                connection = await connect(chain.endpoints.database_url)
                stack.push_async_callback(connection.close)
                simulated = await stack.enter_async_context(self._simulated)
                await simulated.wait_until_it_answers()
                self._table.follow([*await simulated.truth()])  # SYMBOLS may hold other names of the same pairs
                await _wait_until_ready(chain, redis)
                await self._watch(connection)
                await simulated.stop()
                truth = await simulated.truth()
                self._table.say("the simulator has stopped: waiting until everything is stored")
                if not await self._drain(connection, streams, truth):
                    for name, reason in (await chain.troubles(redis)).items():
                        sys.stderr.write(f"{name} is unhealthy: {reason}\n")
                self._table.say("comparing the database with the sent trades and candles")
                candles = {symbol: await simulated.candles(symbol) for symbol in truth}
                self._verdict = await judge(connection, truth, candles)

    async def _watch(self, connection: asyncpg.Connection) -> None:
        await self._simulated.start()
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < self._seconds:
            self._table.say(f"trading for {self._seconds} s, {elapsed:.0f} s so far")
            self._table.show(await fetch_progress(connection))
            await asyncio.sleep(min(_REFRESH_S, max(self._seconds - elapsed, 0)))

    async def _drain(self, connection: asyncpg.Connection, streams: Redis, truth: dict[str, TruthOfSymbol]) -> bool:
        """Wait until everything that was sent is stored; False if that takes longer than ``DRAIN_TIMEOUT_S``."""
        give_up = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < give_up:
            progress = await fetch_progress(connection)
            self._table.show(progress)
            newest = {symbol: of_symbol.newest_id for symbol, of_symbol in progress.items()}
            if (
                all(newest.get(symbol) == expected.last_id for symbol, expected in truth.items())
                and not any(of_symbol.missing for of_symbol in progress.values())
                and all(state.is_drained for state in await fetch_streams(streams))
            ):
                return True
            await asyncio.sleep(_REFRESH_S)
        return False


async def _wait_until_ready(chain: Chain, redis: Redis) -> None:
    give_up = time.monotonic() + READY_TIMEOUT_S
    while troubles := await chain.troubles(redis):
        if time.monotonic() > give_up:
            raise ServiceUnavailable(
                f"not ready after {READY_TIMEOUT_S:.0f} s: "
                + "; ".join(f"{name}: {reason}" for name, reason in troubles.items())
            )
        await asyncio.sleep(_REFRESH_S)


@contextmanager
def _temporary_data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kraken-history-demo-"))
    try:
        if os.geteuid() == 0:
            folder.chmod(0o711)  # as root, PostgreSQL runs under another account, which must be able to enter
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _check_empty(database_url: str, redis_url: str, jobs_redis_url: str) -> None:
    """Check that the demo's trades would not be mixed with existing data.

    Raises:
        UsageError: The database holds trades or candles, or the Redis holds keys of ours.
    """
    instead = "the demo needs empty servers. Unset DATABASE_URL and REDIS_URL to let it run its own"
    connection = await connect(database_url)
    try:
        if await connection.fetchval("SELECT to_regclass('trades') IS NOT NULL") and await connection.fetchval(
            "SELECT EXISTS (SELECT FROM trades) OR EXISTS (SELECT FROM candles)"
        ):
            raise UsageError(f"the database at DATABASE_URL holds data already: {instead}")
    finally:
        await connection.close()
    async with connect_both(redis_url, jobs_redis_url) as both:
        for redis in both:
            keys = f"{prefix_of(redis)}:*"
            async for _ in redis.scan_iter(match=keys, count=1000):
                raise UsageError(f"the Redis at {without_password(redis_url)} holds {keys} keys already: {instead}")


def run_demo(settings: Settings, *, seconds: int, seed: int, rate: float, as_json: bool) -> int:
    """Run the demo and print the verdict; return 0 only if the database equals the sent data."""
    demo = Demo(settings, seconds=seconds, seed=seed, rate=rate, shows_table=not as_json)
    verdict = demo.run()
    sys.stdout.write((demo.as_json(verdict) if as_json else verdict.sentence) + "\n")
    return 0 if verdict.ok else 1
