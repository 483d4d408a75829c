"""Selects the PostgreSQL and Redis of a command: the configured ones, or the embedded ones."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from kraken_history.database.connections import connect
from kraken_history.database.migrations import migrate
from kraken_history.embedded import Servers, absolute, default_data_dir
from kraken_history.settings import Settings
from kraken_history.urls import with_prefix


class Endpoints(Struct, frozen=True):
    """URLs of the servers. They contain passwords."""

    database_url: str
    redis_url: str
    other_jobs_redis_url: str = ""

    @property
    def jobs_redis_url(self) -> str:
        """The Redis of the jobs, the rate limit and the signs of life."""
        return self.other_jobs_redis_url or self.redis_url


def data_dir(settings: Settings) -> Path:
    """The data directory of the embedded servers."""
    return absolute(settings.kraken_history_data_dir or default_data_dir())


def endpoints_that_are_set(settings: Settings) -> tuple[str | None, str | None]:
    """DATABASE_URL and REDIS_URL; None for one that is not set."""
    database, redis = settings.database_url, settings.redis_url
    return (
        None if database is None else database.get_secret_value(),
        None if redis is None else with_prefix(redis.get_secret_value(), settings.redis_prefix),
    )


def embedded_redis_url(servers: Servers, settings: Settings) -> str:
    """The URL of the embedded Valkey, with the prefix of our keys."""
    return with_prefix(servers.redis_url, settings.redis_prefix)


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of the database. An embedded database has the schema.

    Raises:
        UsageError, ServiceUnavailable: The embedded server cannot be used or started.
    """
    with endpoints(settings, needs_redis=False) as those:
        yield those.database_url


@contextmanager
def redis(settings: Settings) -> Iterator[str]:
    """The URL of the Redis of the streams; raises as :func:`database`."""
    with endpoints(settings, needs_database=False) as those:
        yield those.redis_url


@contextmanager
def jobs_redis(settings: Settings) -> Iterator[str]:
    """The URL of the Redis of the jobs; raises as :func:`database`."""
    with endpoints(settings, needs_database=False) as those:
        yield those.jobs_redis_url


@contextmanager
def endpoints(
    settings: Settings, *, needs_database: bool = True, needs_redis: bool = True, migrates: bool = True
) -> Iterator[Endpoints]:
    """Both URLs. If a needed one is not set, the embedded servers run meanwhile. Raises as :func:`database`.

    Args:
        migrates: Whether to migrate an embedded database that is empty.
    """
    database_url, redis_url = endpoints_that_are_set(settings)
    if (database_url or not needs_database) and (redis_url or not needs_redis):
        yield Endpoints(database_url or "", redis_url or "", settings.given_jobs_redis_url or "")
        return
    servers = Servers(data_dir(settings))
    with servers.running():
        if migrates and needs_database and database_url is None:
            asyncio.run(_migrate_if_empty(servers.database_url))
        redis_url = redis_url or embedded_redis_url(servers, settings)
        yield Endpoints(database_url or servers.database_url, redis_url, settings.given_jobs_redis_url or "")


async def _migrate_if_empty(database_url: str) -> None:
    connection = await connect(database_url)
    try:
        is_empty = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NULL")
    finally:
        await connection.close()
    if is_empty:
        await migrate(database_url)
