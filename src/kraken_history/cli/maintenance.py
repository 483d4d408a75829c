"""``migrate``, ``env`` and ``health``."""

import asyncio
import shlex
import sys

from redis.asyncio import Redis

from kraken_history.cli import servers as server_choice
from kraken_history.database.migrations import migrate
from kraken_history.embedded import Servers
from kraken_history.errors import ServiceUnavailable
from kraken_history.runtime import liveness
from kraken_history.runtime.processes import EXIT_FAILED, connect_redis
from kraken_history.settings import Settings


def run_migrate(settings: Settings) -> None:
    """Migrate, and print the applied migrations."""
    with server_choice.endpoints(settings, needs_redis=False, migrates=False) as those:
        applied = asyncio.run(migrate(those.database_url))
    done = f"applied {', '.join(applied)}" if applied else "the database is up to date"
    sys.stderr.write(f"{done}\n")


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
    """0 if Redis holds a healthy sign of life of the service; otherwise print the reason."""
    complaint = asyncio.run(_complaint(_redis_url(settings), service, name))
    if complaint:
        sys.stderr.write(f"{complaint}\n")
        return EXIT_FAILED
    return 0


def _redis_url(settings: Settings) -> str:
    """The Redis that holds the signs of life. No server is started: signs of life exist only while it runs."""
    if (redis_url := settings.given_jobs_redis_url) is not None:
        return redis_url
    servers = Servers(server_choice.data_dir(settings))
    if not servers.is_running():
        raise ServiceUnavailable(
            f"the servers in {servers.data_dir} are not running: start them with `kraken-history up`, or set REDIS_URL"
        )
    return server_choice.embedded_redis_url(servers, settings)


async def _complaint(redis_url: str, service: str, name: str | None) -> str:
    redis: Redis
    async with await connect_redis(redis_url) as redis:
        signs = await liveness.signs_of_life(redis)
    wanted = {
        key: sign
        for key, sign in signs.by_name.items()
        if (key == f"{service}:{name}" if name else key.startswith(f"{service}:"))
    }
    if any(sign.healthy for sign in wanted.values()):
        return ""
    if wanted:
        key, sign = next(iter(wanted.items()))
        return f"{key} is running but unhealthy: {sign.state}"
    return f"no sign of life of {service}{f':{name}' if name else ''} in the last {liveness.BEAT_LASTS_S} s"
