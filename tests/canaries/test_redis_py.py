"""Names of redis-py that its documentation does not promise, and that the connections lean on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
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
