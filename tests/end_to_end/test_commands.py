"""``python -m producers`` and ``python -m consumers`` as they are run: clear words, and a clean end."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.signs import ProducerSign
from simulator import Simulator
from tests.support.services import CONSUMER, PRODUCER, Service
from tests.support.streams import STREAMS
from tests.support.waiting import until

NOBODY = "redis://127.0.0.1:1/0"


async def ended(arguments: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run to the end."""
    with Service(arguments, log, environment) as service:
        await until(lambda: not service.is_running())
        return service.terminate(), service.output


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (PRODUCER, {}, 2, "producer: REDIS_URL is not set"),
        (PRODUCER, {"REDIS_URL": NOBODY}, 1, "producer: no Redis answers at 127.0.0.1:1"),
        (PRODUCER, {"REDIS_URL": "http://x"}, 2, "producer: expected REDIS_URL like"),
        (PRODUCER, {"SYMBOLS": "BTC/"}, 2, "producer: SYMBOLS: "),
        (CONSUMER, {}, 2, "consumer: DATABASE_URL is not set"),
        (
            CONSUMER,
            {"DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x", "REDIS_URL": NOBODY},
            1,
            "consumer: no database answers at 127",
        ),
    ],
)
async def test_what_will_not_do_is_said_in_one_line(
    arguments: tuple[str, ...], environment: dict[str, str], code: int, words: str, tmp_path: Path
) -> None:
    found, output = await ended(arguments, tmp_path / "log", environment)

    assert output.startswith(words)
    assert output.count("\n") == 1
    assert "secret" not in output
    assert found == code


async def test_a_consumer_refuses_a_database_that_was_not_migrated(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    code, output = await ended(CONSUMER, tmp_path / "log", {"DATABASE_URL": database_url, "REDIS_URL": redis_url})

    assert code == 1
    assert output.startswith("consumer: ")
    assert output.count("\n") == 1


async def test_a_producer_tells_of_itself_and_publishes_the_rest_when_it_is_told_to_stop(
    redis_url: str, tmp_path: Path
) -> None:
    async with Simulator(emitting=False, history=200) as kraken, Redis.from_url(redis_url) as redis:
        environment = {
            "REDIS_URL": redis_url,
            "KRAKEN_WS_URL": kraken.ws_url,
            "SYMBOLS": "BTC/USDT,NOT/LISTED",
            "PUBLISH_AFTER_S": "3600",
        }
        with Service(PRODUCER, tmp_path / "log", environment) as producer:
            await until(lambda: is_healthy(redis))
            (sign,) = (await signs_of_life(redis)).of(ProducerSign)
            assert sign.refused == {"NOT/LISTED": "Currency pair not supported NOT/LISTED"}
            assert not await redis.exists(STREAMS[0])
            assert producer.terminate() == 0

        assert await redis.xlen(STREAMS[0]) >= 1


async def is_healthy(redis: Redis) -> bool:
    alive = [*(await signs_of_life(redis)).of(ProducerSign)]
    return bool(alive) and all(sign.healthy and sign.last_ids for sign in alive)
