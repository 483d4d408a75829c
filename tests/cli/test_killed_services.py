"""``status`` shows services that were killed."""

import json

import pytest
from redis.asyncio import Redis

from kraken_history.runtime import liveness
from kraken_history.runtime.signs import encode_sign
from tests.support.command import Run
from tests.support.servers import Background
from tests.support.signs import CONSUMER, WORKER


async def beat_once(redis_url: str, *, left_s: int) -> None:
    async with Redis.from_url(redis_url) as redis:
        await redis.set(f"{liveness.HEALTH_PREFIX}worker:a", encode_sign(WORKER), ex=left_s)
        await redis.set(f"{liveness.HEALTH_PREFIX}consumer:a", encode_sign(CONSUMER), ex=liveness.BEAT_LASTS_S)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_a_service_that_was_killed_is_silent_before_its_sign_expires(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    """After SIGKILL, ``status`` said for 15 seconds that the service was well."""
    migrated = {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url}
    command("status", **migrated)
    background.run(beat_once(redis_url, left_s=8))

    told = json.loads(command("status", "--json").out)
    background.run(beat_once(redis_url, left_s=8))
    table = command("status")

    assert told["silent_s"].keys() == {"worker:a"}
    assert told["silent_s"]["worker:a"] >= 7
    [line] = [line for line in table.out.splitlines() if line.startswith("worker:a")]
    assert "no sign of life for" in line
    assert line.endswith("s: probably killed")
