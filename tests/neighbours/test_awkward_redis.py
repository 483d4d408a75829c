"""A Redis that is full, read-only, restarted or restricted: everything waits or says so in one line."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from kraken_history.errors import UsageError
from kraken_history.runtime.processes import connect_redis
from tests.neighbours.test_shared_redis import running_worker
from tests.support.command import Run
from tests.support.neighbours import certificates, redis_server
from tests.support.waiting import until, until_now

pytestmark = pytest.mark.servers
plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture
def own_redis() -> Iterator[str]:
    """Debian's Redis, which a test may fill and restrict."""
    with redis_server("--maxmemory-policy", "noeviction") as port:
        yield f"redis://127.0.0.1:{port}/0"


@plain_only
@pytest.mark.parametrize("state", ["full", "read-only"])
async def test_the_worker_waits_for_a_redis_that_takes_nothing(
    migrated_database_url: str, own_redis: str, tmp_path: Path, state: str
) -> None:
    # It ended with a traceback: "command not allowed when used memory > 'maxmemory'".
    commands = {
        "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        "read-only": (("REPLICAOF", "127.0.0.1", "9"), ("REPLICAOF", "NO", "ONE")),
    }
    begin, end = commands[state]
    async with Redis.from_url(own_redis) as redis:
        with running_worker(migrated_database_url, own_redis, tmp_path) as worker:
            await until(lambda: redis.exists("kraken:jobs:health-check"))
            await redis.execute_command(*begin)
            await until(lambda: '"waiting"' in worker.output)
            await asyncio.sleep(1.5)  # several polls of arq's
            assert worker.is_running()
            await redis.execute_command(*end)
            await until(lambda: '"going_on"' in worker.output)
            await redis.delete("kraken:jobs:health-check")
            await until(lambda: redis.exists("kraken:jobs:health-check"))
            assert worker.terminate() == 0
        assert "Traceback" not in worker.output


@plain_only
async def test_the_worker_starts_at_a_redis_that_is_full_and_waits(
    migrated_database_url: str, own_redis: str, tmp_path: Path
) -> None:
    async with Redis.from_url(own_redis) as redis:
        await redis.config_set("maxmemory", "1")
        with running_worker(migrated_database_url, own_redis, tmp_path) as worker:
            await until(lambda: '"waiting"' in worker.output)
            assert worker.terminate() == 0  # also while it waits
        assert "Traceback" not in worker.output


@plain_only
@pytest.mark.parametrize("begin", [("CONFIG", "SET", "maxmemory", "1"), ("REPLICAOF", "127.0.0.1", "9")])
def test_a_command_says_in_one_line_that_redis_takes_nothing(
    migrated_database_url: str, own_redis: str, command: Run, begin: tuple[str, ...]
) -> None:
    with BlockingRedis.from_url(own_redis) as redis:
        redis.execute_command(*begin)

    outcome = command("fill-gaps", "--symbol", "BTC/USDT", DATABASE_URL=migrated_database_url, REDIS_URL=own_redis)

    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "takes no writes at the moment" in outcome.err


@plain_only
def test_an_account_with_few_rights_over_tls_is_enough(
    migrated_database_url: str, tmp_path: Path, command: Run
) -> None:
    """No INFO, KEYS or CONFIG, and no name but ours. arq asked for INFO at its start, and ended with a traceback."""
    account = ("--user", "me", "on", ">p@ss/1", "~kraken:*", "&*", "+@all", "-@admin", "-@dangerous")
    with certificates() as folder, redis_server(*account, "--requirepass", "other", tls=folder) as port:
        trusted = f"ssl_ca_certs={folder}/ca.crt&ssl_check_hostname=true"
        url = f"redis://me:p%40ss%2F1@localhost:{port}/0?ssl=true&{trusted}"
        with running_worker(migrated_database_url, url, tmp_path) as worker:
            until_now(lambda: command("health", "worker", REDIS_URL=url).code == 0)
            assert worker.terminate() == 0, worker.output
        assert "Traceback" not in worker.output
        for wrong, said in [
            (url.replace("localhost", "127.0.0.1"), "certificate"),
            (url.split("&ssl_ca")[0], "certificate"),
            (url.replace("p%40ss%2F1", "wrong"), "password"),
        ]:
            outcome = command("health", "worker", REDIS_URL=wrong)
            assert (outcome.code, outcome.err.count("\n")) == (2, 1)
            assert said in outcome.err
            assert "p@ss" not in outcome.err


async def test_a_user_without_a_needed_command_is_told_so(own_redis: str) -> None:
    async with Redis.from_url(own_redis) as redis:
        await redis.execute_command("ACL", "SETUSER", "me", "on", ">x", "~*", "+@all", "-ping")

    with pytest.raises(UsageError, match="extend its ACL"):
        await connect_redis(own_redis.replace("redis://", "redis://me:x@"))
