"""``docker compose up``, with the project's own files, in real containers."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from kraken_history import HistoricalCandle, HistoricalDataProvider
from kraken_history.database.connections import connect
from tests.compose.conftest import NETWORK, SYMBOLS, Stack, join_network, kill, leave_network
from tests.compose.stand_ins import docker
from tests.support.compose_file import ENV_FILE

pytestmark = [pytest.mark.compose, pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(900)]

SERVICES = ("timescaledb", "redis", "producer", "consumer", "worker")


def test_services_start_in_order_and_become_healthy(stack: Stack) -> None:
    migrate, consumer = (
        json.loads(
            docker("inspect", "--format", "{{json .State}}", *stack.compose("ps", "--all", "--quiet", name).split())
        )
        for name in ("migrate", "consumer")
    )

    assert migrate["ExitCode"] == 0
    assert migrate["FinishedAt"] <= consumer["StartedAt"]
    assert all(stack.is_healthy(container) for name in SERVICES for container in stack.containers(name))


def test_trades_arrive(stack: Stack) -> None:
    verdict = stack.settle()

    assert verdict.ok, verdict.sentence


def test_a_backfill_is_enqueued_with_exec(stack: Stack) -> None:
    start = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}"

    out = stack.compose("exec", "-T", "worker", "kraken-history", "backfill", SYMBOLS[0], "--from", start, "--follow")

    assert out == ""
    status = stack.compose("exec", "-T", "worker", "kraken-history", "backfill", SYMBOLS[0], "--status", "--json")
    assert [backfill["state"] for backfill in json.loads(status)] == ["done"]
    assert stack.settle().ok


def test_testers_on_the_host_read_with_their_own_roles(stack: Stack) -> None:
    urls = asyncio.run(_roles_for(stack.database_url, "tester_a", "tester_b"))

    first, second = (asyncio.run(_latest(url)) for url in urls)

    assert len(first) == 5
    assert [candle.timestamp for candle in first[:4]] == [candle.timestamp for candle in second[:4]]


async def _roles_for(database_url: str, *names: str) -> list[str]:
    connection = await connect(database_url)
    try:
        for name in names:
            await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}' IN ROLE kraken_reader")
    finally:
        await connection.close()
    place = urlsplit(database_url)
    return [f"postgresql://{name}:{name}@{place.hostname}:{place.port}{place.path}" for name in names]


async def _latest(database_url: str) -> list[HistoricalCandle]:
    async with HistoricalDataProvider(database_url) as history:
        return await history.get_latest_candles(SYMBOLS[0], 1, 5)


def test_more_consumers_share_the_work(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-recreate", "--scale", "consumer=3", "--wait")

    assert len(stack.containers("consumer")) == 3
    assert stack.settle().ok


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_container_comes_back_and_nothing_is_lost(stack: Stack, service: str) -> None:
    container = stack.containers(service)[0]
    pid = stack.pid(container)

    kill(pid)

    stack.wait_until(lambda: stack.pid(container) not in (0, pid), f"{service} restarts")
    verdict = stack.settle()
    assert verdict.ok, verdict.sentence
    stack.wait_until(lambda: stack.is_healthy(container), f"{service} is healthy again")


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_off_the_network_comes_back_and_nothing_is_lost(stack: Stack, service: str) -> None:
    container = stack.containers(service)[0]

    docker("network", "disconnect", NETWORK, container)
    stack.wait_until(lambda: not _is_attached(container), f"{service} is off the network")
    asyncio.run(asyncio.sleep(8))  # longer than the feed's silence can be by chance, shorter than its timeout
    docker("network", "connect", "--alias", service, NETWORK, container)

    verdict = stack.settle()
    assert verdict.ok, verdict.sentence
    stack.wait_until(lambda: stack.is_healthy(container), f"{service} is healthy again")


def _is_attached(container: str) -> bool:
    return NETWORK in json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))


def test_down_and_up_keeps_the_data(stack: Stack) -> None:
    leave_network()
    stack.compose("down", "--timeout", "30")
    stack.compose("create")
    join_network()
    stack.compose("up", "--detach", "--wait", "--wait-timeout", "240")

    verdict = stack.settle()

    assert verdict.ok, verdict.sentence


@pytest.mark.parametrize("service", ["producer", "consumer", "worker", "redis"])
def test_a_service_has_no_more_rights_than_it_needs(stack: Stack, service: str) -> None:
    (container, *_) = stack.containers(service)
    host = json.loads(docker("inspect", "--format", "{{json .HostConfig}}", container))

    assert stack.compose("exec", "-T", service, "id", "-u").strip() not in ("", "0")
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["ReadonlyRootfs"]
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None)


def test_the_command_lines_of_the_host_show_no_password(stack: Stack) -> None:
    lines = [line for name in SERVICES for id_ in stack.containers(name) for line in docker("top", id_).splitlines()]

    assert any("redis-server" in line for line in lines)
    assert not [line for line in lines for secret in ENV_FILE.values() if secret in line]
