"""``up``: run everything until a signal stops it."""

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack, ExitStack

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kraken_history.cli.chain import Chain, claimed
from kraken_history.cli.checkout import find_checkout
from kraken_history.cli.logs import LogTail, print_logs, print_new_lines
from kraken_history.cli.servers import Endpoints, data_dir, embedded_redis_url, endpoints_that_are_set
from kraken_history.embedded import Servers
from kraken_history.runtime.processes import connect_redis, run_until
from kraken_history.runtime.signs import ProducerSign, Signs
from kraken_history.settings import Settings
from kraken_history.urls import without_account, without_password

_PATIENCE_S = 5.0  # seconds of trouble before it is printed
_START_PATIENCE_S = 30.0  # the same, of a service that is starting, or of a producer that has not failed yet
_STARTING = ("it is starting", "start: ")
_CHECK_EVERY_S = 0.5


def run_up(settings: Settings) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP; return 0 once everything has stopped."""
    find_checkout()  # fails before anything is started
    try:
        with ExitStack() as stack:
            asyncio.run(_run(_prepare(settings, stack), settings))
    except KeyboardInterrupt:  # during the preparation of the servers, or a second Ctrl-C
        return 0
    return 0


def _prepare(settings: Settings, stack: ExitStack) -> Chain:
    directory = data_dir(settings)
    lock_file = stack.enter_context(claimed(directory))
    database_url, redis_url = endpoints_that_are_set(settings)
    servers: Servers | None = None
    if database_url is None or redis_url is None:
        servers = Servers(directory)
        waiting = f"waiting for another command that uses {servers.data_dir}"
        stack.enter_context(servers.claim_up(waiting=lambda: _say(waiting)))
        _say(f"starting PostgreSQL and Valkey in {servers.data_dir}")
        servers.prepare()
        database_url, redis_url = (
            database_url or servers.database_url,
            redis_url or embedded_redis_url(servers, settings),
        )
    return Chain(
        directory,
        lock_file,
        Endpoints(database_url, redis_url, settings.given_jobs_redis_url or ""),
        servers=servers,
        metrics_port=settings.metrics_port,
    )


async def _run(chain: Chain, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    files = {program.name: chain.supervisor.log_of(program.name) for program in chain.supervisor.programs}
    tail = LogTail(files, quiet=files.keys() - set(chain.services))
    try:
        async with chain.supervisor:
            await run_until(stop, print_logs(tail), _start_and_watch(chain, settings))
            if stop.is_set():
                _say("stopping")
    finally:
        print_new_lines(tail)
        tail.close()
    _say("stopped")


async def _start_and_watch(chain: Chain, settings: Settings) -> None:
    await chain.start(say=_say)
    watch = Watch(chain, settings)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(await connect_redis(chain.endpoints.jobs_redis_url))
        while True:
            await _look_at_disk(chain)
            for line in await watch.look(redis, now_s=time.monotonic()):
                _say(line)
            await asyncio.sleep(_CHECK_EVERY_S)


async def _look_at_disk(chain: Chain) -> None:
    was_full = chain.disk.is_full
    if line := await asyncio.to_thread(chain.disk.look):
        _say(line)
    if was_full and not chain.disk.is_full:
        await chain.supervisor.start_waiting_programs()


class Watch:
    """Reports when everything is ready, and troubles that last."""

    def __init__(self, chain: Chain, settings: Settings) -> None:
        self._chain = chain
        self._settings = settings
        self._was_ready = False
        self._since_s: dict[str, float] = {}
        self._reported: dict[str, set[str]] = {}  # by service: the kinds of trouble printed since it was healthy
        self._refused: set[str] = set()

    async def look(self, redis: Redis, *, now_s: float) -> list[str]:
        """Check once; return the changes as lines to print.

        Raises:
            ServiceUnavailable: supervisord does not answer.
        """
        try:
            troubles, signs = await self._chain.look(redis)
        except (RedisError, OSError) as error:
            troubles, signs = {"redis": str(error) or type(error).__name__}, Signs({})
        return [*self._changes(troubles, now_s), *self._refusals(signs), *self._readiness(troubles)]

    def _changes(self, troubles: dict[str, str], now_s: float) -> list[str]:
        self._since_s = {name: self._since_s.get(name, now_s) for name in troubles}
        changes = []
        for name, why in troubles.items():
            if now_s - self._since_s[name] >= _patience_s(why) and self._is_news(name, why):
                self._reported.setdefault(name, set()).add(_kind(why))
                changes.append(self._trouble(name, why))
        if self._was_ready:
            changes += [f"{name} is healthy again" for name in sorted(self._reported.keys() - troubles.keys())]
        self._reported = {name: kinds for name, kinds in self._reported.items() if name in troubles}
        return changes

    def _is_news(self, name: str, why: str) -> bool:
        """Whether no trouble of this kind was printed. A start after another trouble is a step out of it, no news."""
        reported = self._reported.get(name)
        return not reported or (_kind(why) not in reported and not why.startswith(_STARTING))

    def _trouble(self, name: str, why: str) -> str:
        if why.startswith("kraken: "):
            reason = why.removeprefix("kraken: ")
            place = without_account(self._settings.kraken_ws_url)
            return f"the producer has no session with Kraken at {place} ({reason}): it keeps trying"
        return f"{name} is unhealthy: {why}"

    def _refusals(self, signs: Signs) -> list[str]:
        refused: dict[str, str] = {}
        for sign in signs.of(ProducerSign):
            refused |= sign.refused
        new = {symbol: reason for symbol, reason in refused.items() if symbol not in self._refused}
        self._refused |= new.keys()
        return [f"Kraken refuses {symbol} ({reason}): correct SYMBOLS" for symbol, reason in new.items()]

    def _readiness(self, troubles: dict[str, str]) -> list[str]:
        if troubles or self._was_ready:
            return []
        self._was_ready = True
        symbols = [symbol for symbol in self._settings.symbols if symbol not in self._refused]
        place = without_password(self._chain.endpoints.database_url)
        return [f"ready: {len(symbols)} symbols, database {place}, stop with Ctrl-C"]


def _kind(why: str) -> str:
    """The part of a reason that stays while its details change: ``kraken`` of ``kraken: Cannot connect``."""
    return why.partition(":")[0]


def _patience_s(why: str) -> float:
    return _START_PATIENCE_S if why.startswith(_STARTING) else _PATIENCE_S


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
