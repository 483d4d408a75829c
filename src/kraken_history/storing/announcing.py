"""Notifies followers of changed candles, after the transaction that changed them.

A transaction that has notified takes a lock when it commits, and holds it until the commit is durable. The lock is one
for all databases of the server: transactions that notify would be committed one after the other, and each would wait
for the disk, or for a synchronous replica, alone. So a transaction of its own notifies, which writes nothing that must
become durable.

If the process ends in between, or the server refuses the notification, it is lost. Followers poll, so that costs them
``poll_s`` at most, and the write, which is committed, never fails because of it.

A session that sits in a transaction after LISTEN keeps the server's queue of notifications from being emptied, until it
is full. PostgreSQL notices that the session has gone only when somebody listens, or asks how full the queue is.
"""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg

from kraken_history.database.connections import Connection
from kraken_history.database.failures import UNAVAILABLE
from kraken_history.database.poolers import owner_of

CANDLES_CHANNEL = "kraken_history_candles"
"""NOTIFY channel. Payload: a JSON array of ``[symbol, first minute, last minute]``, changed, in unix seconds."""

_WITHIN_S = 5.0  # a writer waits for a notification no longer
_QUIET_S = 60.0  # between two log lines about failures: a full queue refuses every notification

_log = logging.getLogger("kraken_history.store")
_log.addHandler(logging.NullHandler())
_announced: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()  # by connection in an announced transaction
_next_line_at = 0.0


@asynccontextmanager
async def announced_transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction after whose commit the payloads of :func:`announce` are sent. Not inside another transaction.

    Whatever the server's default is, each statement sees what was committed before it. Otherwise a writer that waited
    for a ledger's lock would read the ledger as it was before.
    """
    owner = owner_of(connection)
    payloads = _announced[owner] = []
    try:
        async with connection.transaction(isolation="read_committed"):
            yield
    finally:
        del _announced[owner]
    if payloads:
        await _notify(connection, payloads)


def announce(connection: Connection, payloads: Sequence[str]) -> None:
    """Notify followers once the announced transaction of this connection is committed.

    In any other transaction this does nothing: followers then find the change when they poll.
    """
    _announced.get(owner_of(connection), []).extend(payloads)


async def _notify(connection: Connection, payloads: Sequence[str]) -> None:
    try:
        await connection.execute(_NOTIFY, CANDLES_CHANNEL, payloads, timeout=_WITHIN_S)
    except asyncpg.ProgramLimitExceededError as error:  # the queue is full
        _log_loss(error)
        await _let_the_queue_be_emptied(connection)
    except (asyncpg.PostgresError, *UNAVAILABLE) as error:
        _log_loss(error)


async def _let_the_queue_be_emptied(connection: Connection) -> None:
    """Have the server remove what every listener has received, for later notifications."""
    with suppress(asyncpg.PostgresError, *UNAVAILABLE):
        await connection.execute("SELECT pg_notification_queue_usage()", timeout=_WITHIN_S)


def _log_loss(error: BaseException) -> None:
    global _next_line_at
    if time.monotonic() >= _next_line_at:
        _next_line_at = time.monotonic() + _QUIET_S
        _log.warning("followers_not_notified", extra={"error": str(error) or type(error).__name__})


_NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"
