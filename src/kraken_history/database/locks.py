"""Locks of the whole database, held for as long as some work takes and released if the process dies."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from kraken_history.database.connections import Connection
from kraken_history.database.failures import UNAVAILABLE
from kraken_history.database.poolers import is_pooled, open_probed, owner_of

_POLL_S = 0.05
_CLOSE_TIMEOUT_S = 5.0


@asynccontextmanager
async def holding(connection: Connection, key: int, *, wait_s: float) -> AsyncIterator[bool]:
    """Hold an advisory lock; gives False if another process holds it for longer than ``wait_s``.

    Behind a pooler, a lock of the session would stay with a session that belongs to nobody, and the next process would
    wait for it in vain. There the lock belongs to a transaction of a second connection, which the pooler keeps open.

    Polls: a blocking lock would wait inside a statement, and CREATE INDEX CONCURRENTLY waits for all older statements,
    so the two would wait for each other.
    """
    if is_pooled(connection):
        async with _holding_beside(connection, key, wait_s) as is_held:
            yield is_held
        return
    is_held = await _again(lambda: connection.fetchval("SELECT pg_try_advisory_lock($1)", key), wait_s)
    try:
        yield is_held
    finally:
        if is_held:
            await _release(connection, key)


async def _release(connection: Connection, key: int) -> None:
    try:
        await connection.fetchval("SELECT pg_advisory_unlock($1)", key)
    except BaseException as error:  # lost or cancelled: closing the connection releases the lock
        connection.terminate()
        if not isinstance(error, Exception):
            raise


@asynccontextmanager
async def _holding_beside(connection: Connection, key: int, wait_s: float) -> AsyncIterator[bool]:
    beside = await open_probed(owner_of(connection).database, is_pooled=True)
    try:
        yield await _again(lambda: _take_in_transaction(beside, key), wait_s)
    finally:
        with suppress(asyncpg.PostgresError, *UNAVAILABLE):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await beside.execute("ROLLBACK")  # a pooler would do it, but later than this ends
                await beside.close()
        beside.terminate()  # if that took too long


async def _take_in_transaction(beside: Connection, key: int) -> bool:
    """Leaves a transaction open if it has the lock. Then, no snapshot is open that an index could wait for."""
    await beside.execute("BEGIN")
    is_held: bool = await beside.fetchval("SELECT pg_try_advisory_xact_lock($1)", key)
    await beside.execute("SET LOCAL idle_in_transaction_session_timeout = 0" if is_held else "ROLLBACK")
    return is_held


async def _again(take: Callable[[], Awaitable[bool]], wait_s: float) -> bool:
    give_up = time.monotonic() + wait_s
    while not await take():
        if time.monotonic() >= give_up:
            return False
        await asyncio.sleep(_POLL_S)
    return True
