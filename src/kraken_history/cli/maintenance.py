"""``migrate``, ``env`` and ``health``."""

import asyncio
import shlex
import sys

from redis.asyncio import Redis

from kraken_history.cli import servers as server_choice
from kraken_history.cli.stream_words import unread_words
from kraken_history.database.connections import create_pool
from kraken_history.database.migrations import migrate
from kraken_history.embedded import Servers
from kraken_history.errors import ServiceUnavailable
from kraken_history.runtime import liveness
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.runtime.redis_access import connect_both
from kraken_history.runtime.signs import WorkerSign
from kraken_history.settings import Settings
from kraken_history.storing.hole_bounds import fill_hole_times
from kraken_history.stream.backlog import fetch_streams, nobody_reads
from kraken_history.stream.shards import fetch_shards


def run_migrate(settings: Settings) -> None:
    """Migrate, and print the applied migrations. If it is interrupted, the next call or the worker continues."""
    with server_choice.endpoints(settings, needs_redis=False, migrates=False) as those:
        applied = asyncio.run(migrate(those.database_url))
        done = f"applied {', '.join(applied)}" if applied else "the database is up to date"
        sys.stderr.write(f"{done}\n")
        asyncio.run(_look_up_hole_times(those.database_url))


async def _look_up_hole_times(database_url: str) -> None:
    async with await create_pool(database_url, min_size=1, max_size=1) as pool:
        if found := await fill_hole_times(pool, on_searched=_print_progress):
            sys.stderr.write(f"the times of {found:,} range(s) of missing ids are known now\n")


def _print_progress(searched: int, total: int) -> None:
    if searched % 100 == 0:
        sys.stderr.write(f"looking up the times of missing ids: {searched:,} of {total:,} partitions searched\n")


def run_env(settings: Settings) -> None:
    """Print the URLs. If they are those of the embedded servers, create the data directory where it is missing."""
    database_url, redis_url = server_choice.endpoints_that_are_set(settings)
    if database_url is None or redis_url is None:
        servers = Servers(server_choice.data_dir(settings))
        servers.prepare()
        if not servers.is_running():
            sys.stderr.write("the servers are not running: start them with `kraken-history up`\n")
        database_url, redis_url = database_url or servers.database_url, redis_url or servers.redis_url
    sys.stdout.write(f"DATABASE_URL={shlex.quote(database_url)}\nREDIS_URL={shlex.quote(redis_url)}\n")


def run_health(settings: Settings, service: str, name: str | None) -> int:
    """0 if Redis holds a healthy sign of life of the service, whose remarks are printed; otherwise print the reason."""
    complaint, remarks = asyncio.run(_complaint(_redis_urls(settings), service, name))
    for line in [complaint] if complaint else remarks:
        sys.stderr.write(f"{line}\n")
    return EXIT_FAILED if complaint else 0


def _redis_urls(settings: Settings) -> tuple[str, str]:
    """The Redis of the streams, and that of the signs of life. No server is started: signs exist only while it runs."""
    _, streams_url = server_choice.endpoints_that_are_set(settings)
    if (jobs_url := settings.given_jobs_redis_url) is not None:
        return streams_url or jobs_url, jobs_url
    servers = Servers(server_choice.data_dir(settings))
    if not servers.is_running():
        raise ServiceUnavailable(
            f"the servers in {servers.data_dir} are not running: start them with `kraken-history up`, or set REDIS_URL"
        )
    url = server_choice.embedded_redis_url(servers, settings)
    return url, url


async def _complaint(redis_urls: tuple[str, str], service: str, name: str | None) -> tuple[str, list[str]]:
    """Why the service is not healthy, and what else a person should know about it."""
    async with connect_both(*redis_urls) as (streams, jobs_redis):
        signs = await liveness.signs_of_life(jobs_redis)
        unread = await _unread_words(streams) if service != WorkerSign.service else ""
    wanted = {
        key: sign
        for key, sign in signs.by_name.items()
        if (liveness.name_of(key) == f"{service}:{name}" if name else key.startswith(f"{service}:"))
    }
    if any(sign.healthy for sign in wanted.values()):
        remarks = [f"{key}: {remark}" for key, sign in wanted.items() for remark in sign.remarks]
        return unread, remarks
    if wanted:
        key, sign = next(iter(wanted.items()))
        return f"{key} is running but unhealthy: {sign.state}", []
    return f"no sign of life of {service}{f':{name}' if name else ''} in the last {liveness.BEAT_LASTS_S} s", []


async def _unread_words(redis: Redis) -> str:
    """The complaint about streams that nobody reads; empty if there are none, or nothing divides them yet."""
    shards = await fetch_shards(redis)
    unread = [] if shards is None else nobody_reads(await fetch_streams(redis), shards)
    return unread_words(unread[0], shards or 0) if unread else ""
