"""Names of asyncpg that its documentation does not promise, and that the database connections lean on."""

import socket

import asyncpg
import pytest

from kraken_history.database.connections import connect, create_pool
from kraken_history.database.poolers import owner_of
from kraken_history.database.urls import SILENCE_S

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def user_timeout_ms(connection: object) -> int:
    """What the kernel was told about the socket below a connection."""
    link = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    option: int = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    return option


@plain_only
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this platform has no TCP_USER_TIMEOUT")
async def test_the_socket_is_found_below_a_connection_and_below_a_lent_one(migrated_database_url: str) -> None:
    """``database.connections`` finds the socket at ``Connection._transport``, also through a pool's stand-in.

    Without it a connection to a server that fell silent waits for the kernel's own patience, which is a quarter of an
    hour.
    """
    connection = await connect(migrated_database_url)
    try:
        assert user_timeout_ms(connection) == 1_000 * SILENCE_S
    finally:
        await connection.close()
    pool = await create_pool(migrated_database_url, min_size=1, max_size=1, for_reading=True)
    async with pool, pool.acquire() as lent:
        assert user_timeout_ms(lent) == 1_000 * SILENCE_S


def test_an_error_is_made_from_a_state_and_a_message() -> None:
    """``reading.arrow_stream`` makes asyncpg's error of a SQLSTATE that ADBC gives, by ``PostgresError.new``.

    Without it a reader of columns sees other exceptions than a reader of candles.
    """
    error = asyncpg.PostgresError.new({"C": "57014", "M": "canceling statement"})

    assert isinstance(error, asyncpg.QueryCanceledError)
    assert str(error) == "canceling statement"


@plain_only
@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="this platform has no TCP_INFO")
async def test_the_kernel_counts_the_bytes_of_a_connection(migrated_database_url: str) -> None:
    """``database.statements`` reads them at ``tcpi_bytes_acked`` of Linux's ``struct tcp_info``.

    If they stood still, a network that is only slow would be taken for a silent one.
    """
    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool, pool.acquire() as lent:
        before = owner_of(lent).traffic()
        assert owner_of(lent).traffic() == before
        await lent.fetchval("SELECT repeat('x', 100_000)")
        sent, received = (now - then for now, then in zip(owner_of(lent).traffic(), before, strict=True))

        assert 0 < sent < 1_000
        assert 100_000 < received < 101_000
