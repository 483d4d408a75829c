"""Names of redis-py that its documentation does not promise, and that the connections lean on."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection

PONG = b"+PONG\r\n"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server that answers every command with PONG."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(65536):
            writer.write(PONG * command.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_command_goes_through_the_method_that_is_replaced(port: int) -> None:
    """``runtime.redis_connections`` overrides ``send_packed_command`` and calls ``_send_packed_command`` itself.

    If redis-py sends in another way, the override is dead code: on Python 3.11 a service may lose the cancellation
    that is to end it.
    """
    sent: list[str] = []

    class Watched(Connection):
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            sent.append("send_packed_command")
            await super().send_packed_command(command, check_health)

        async def _send_packed_command(self, command: Any) -> None:
            sent.append("_send_packed_command")
            await super()._send_packed_command(command)

    pool = ConnectionPool(connection_class=Watched, host="127.0.0.1", port=port, socket_timeout=5, lib_name=None)
    async with Redis.from_pool(pool) as redis:
        await redis.ping()
        sent.clear()
        await redis.ping()

    assert sent == ["send_packed_command", "_send_packed_command"]


@pytest.mark.parametrize("name", ["connect", "check_health", "disconnect", "is_connected"])
def test_a_connection_has_the_parts_that_sending_needs(name: str) -> None:
    """``runtime.redis_connections`` calls these as redis-py's own ``send_packed_command`` does."""
    assert hasattr(AbstractConnection, name)


async def test_a_pool_makes_connections_of_the_class_that_it_was_given_last() -> None:
    """``runtime.redis_connections.pool_at`` sets ``connection_class`` after ``from_url`` has chosen one.

    If a pool keeps another record of it, connections lose their own way of sending without an error.
    """

    class Other(Connection):
        pass

    pool = ConnectionPool.from_url("redis://127.0.0.1:1/0")
    pool.connection_class = Other

    assert type(pool.make_connection()) is Other  # type: ignore[no-untyped-call]


async def test_a_command_is_sent_again_by_the_connections_own_retry(port: int) -> None:
    """``jobs.patience`` overrides ``Retry.call_with_retry(do, fail)``, of which each connection has a copy.

    If redis-py tries again by other means, the worker ends at the first command that finds no Redis.
    """
    asked: list[int] = []

    class Watched(Retry):
        async def call_with_retry(self, do: Callable[[], Awaitable[Any]], fail: Callable[[Any], Any]) -> Any:
            asked.append(id(self))
            return await do()

    retry = Watched(NoBackoff(), 0)
    url = f"redis://127.0.0.1:{port}/0"
    pool = ConnectionPool.from_url(url, retry=retry, retry_on_error=[NoConnection], lib_name=None)
    async with Redis.from_pool(pool) as redis:
        await redis.ping()

    assert asked
    assert id(retry) not in asked


async def test_a_pool_hands_out_a_connection_that_is_connected(port: int) -> None:
    """``jobs.patience.PatientPool`` waits in ``get_connection``, where redis-py connects outside of any retry."""
    pool = ConnectionPool.from_url(f"redis://127.0.0.1:{port}/0", lib_name=None)

    connection: Any = await pool.get_connection()
    try:
        assert connection.is_connected
    finally:
        await connection.disconnect()


@pytest.mark.parametrize("name", ["on_connect", "connect", "read_response", "_connect"])
def test_a_connection_connects_and_reads_by_the_methods_that_are_replaced(name: str) -> None:
    """``runtime.redis_connections`` overrides these, to leave a server that was replaced, and to find its successor.

    With other names, services would stay with a master that has become a replica, and Sentinels would not be asked.
    """
    assert inspect.iscoroutinefunction(getattr(Connection, name))


async def test_a_pool_connects_each_connection_before_its_use(port: int) -> None:
    """``runtime.redis_connections`` replaces outdated connections in ``connect``, which the pool calls each time."""
    calls: list[int] = []

    class Watched(Connection):
        async def connect(self) -> None:
            calls.append(1)
            await super().connect()  # type: ignore[no-untyped-call]

    pool = ConnectionPool(connection_class=Watched, host="127.0.0.1", port=port, lib_name=None, lib_version=None)
    async with Redis.from_pool(pool) as redis:
        await redis.ping()
        before = len(calls)
        await redis.ping()

    assert len(calls) == before + 1


@pytest.mark.parametrize("name", ["immediate_execute_command", "execute", "reset"])
def test_a_pipeline_has_the_methods_that_are_replaced(name: str) -> None:
    """``jobs.patience`` and ``fetching.queue_redis`` override these, to survive a cut while keys are watched."""
    assert inspect.iscoroutinefunction(getattr(Pipeline, name))


def test_a_cluster_has_the_parts_that_are_replaced() -> None:
    """``runtime.redis_clusters`` sets or overrides these.

    Otherwise the client forgets its nodes after an outage, and asks a node that may be away for the keys of a command.
    """
    cluster = RedisCluster(host="127.0.0.1", port=1)

    assert cluster._initialize is True
    assert cluster.nodes_manager.startup_nodes.keys() == {"127.0.0.1:1"}
    assert cluster.nodes_manager.connection_kwargs is cluster.connection_kwargs
    assert inspect.iscoroutinefunction(cluster._determine_slot)
    assert inspect.iscoroutinefunction(cluster.commands_parser.initialize)


async def test_sentinels_are_asked_in_turn() -> None:
    """``runtime.redis_sentinels`` replaces the clients in ``Sentinel.sentinels`` by its own, and closes them."""
    asked: list[str] = []

    class Client:
        def __init__(self, name: str) -> None:
            self._name = name

        async def sentinel_masters(self) -> dict[str, Any]:
            asked.append(self._name)
            return {}

    sentinel = Sentinel([])  # type: ignore[no-untyped-call]
    clients: Any = [Client("a"), Client("b")]
    sentinel.sentinels = clients
    with pytest.raises(MasterNotFoundError):
        await sentinel.discover_master("m")

    assert asked == ["a", "b"]
