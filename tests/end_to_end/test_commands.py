"""``python -m producers`` and ``python -m consumers`` as they are run: clear words, and a clean end."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from redis.asyncio import Redis

from kraken_history.runtime.liveness import signs_of_life
from kraken_history.runtime.signs import ProducerSign
from simulator import Simulator
from tests.support.proxy import Proxy
from tests.support.services import CONSUMER, PRODUCER, WORKER, Service
from tests.support.streams import STREAMS
from tests.support.waiting import until


async def ended(arguments: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run to the end."""
    with Service(arguments, log, environment) as service:
        await until(lambda: not service.is_running())
        return service.terminate(), service.output


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (PRODUCER, {}, 2, "producer: REDIS_URL is not set"),
        (PRODUCER, {"REDIS_URL": "http://x"}, 2, "producer: expected REDIS_URL like"),
        (PRODUCER, {"SYMBOLS": "BTC/"}, 2, "producer: SYMBOLS: "),
        (CONSUMER, {}, 2, "consumer: DATABASE_URL is not set"),
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


async def test_a_wrong_password_ends_a_service_in_one_line(redis_url: str, tmp_path: Path) -> None:
    wrong = urlunsplit(urlsplit(redis_url)._replace(netloc=f":secret@{urlsplit(redis_url).netloc.rpartition('@')[2]}"))
    for number, arguments in enumerate((PRODUCER, WORKER)):
        code, output = await ended(arguments, tmp_path / str(number), {"REDIS_URL": wrong})

        assert code == 2
        assert "password" in output
        assert output.count("\n") == 1
        assert "secret" not in output


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_services_that_start_before_their_servers_wait_for_them(
    migrated_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    # They ended with one line, so without a supervisor they stayed down after a failover.
    async with (
        Simulator(emitting=False, history=200) as kraken,
        Proxy(redis_url) as redis_proxy,
        Proxy(migrated_database_url) as database_proxy,
        Redis.from_url(redis_url) as redis,
    ):
        environment = {
            "REDIS_URL": redis_proxy.url,
            "DATABASE_URL": database_proxy.url,
            "KRAKEN_WS_URL": kraken.ws_url,
            "KRAKEN_REST_URL": kraken.rest_url,
            "SYMBOLS": "BTC/USDT",
            "LOG_JSON": "1",
        }
        await redis_proxy.cut()
        await database_proxy.cut()
        with (
            Service(PRODUCER, tmp_path / "producer", environment) as producer,
            Service(CONSUMER, tmp_path / "consumer", environment) as consumer,
            Service(WORKER, tmp_path / "worker", environment) as worker,
        ):
            services = (producer, consumer, worker)
            await until(lambda: all('"waiting"' in service.output for service in services))
            await redis_proxy.restore()
            await until(lambda: '"going_on"' in producer.output and worker.output.count('"waiting"') == 2)
            await database_proxy.restore()
            await until(lambda: signs_of(redis, 3))
            codes = await asyncio.gather(*(asyncio.to_thread(service.terminate) for service in services))
            assert codes == [0, 0, 0]
            for event in ("waiting", "going_on"):
                assert [service.output.count(f'"event": "{event}"') for service in services] == [1, 1, 2]


@pytest.mark.parametrize("arguments", [PRODUCER, CONSUMER], ids=["producer", "consumer"])
async def test_a_service_that_waits_for_its_servers_ends_when_it_is_told_to(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    nobody = {"DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x", "REDIS_URL": "redis://:secret@127.0.0.1:1/0"}
    with Service(arguments, tmp_path / "log", nobody) as service:
        await until(lambda: "waiting" in service.output)

        assert service.terminate() == 0
        assert "answers at 127.0.0.1:1" in service.output
        assert "secret" not in service.output


async def signs_of(redis: Redis, number: int) -> bool:
    return len((await signs_of_life(redis)).by_name) == number


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
