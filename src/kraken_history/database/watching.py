"""Watches the sessions of a service's pool from a connection beside it.

A statement that gets no answer may be one that waits, or one whose session the server has ended while the network
between is silent. Only the server knows, so it is asked. The first is put into words; of the second, the connection is
given up, so that the service goes on with a new one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from weakref import WeakSet

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import connect
from kraken_history.database.failures import UNAVAILABLE
from kraken_history.database.poolers import is_pooled
from kraken_history.errors import HistoryError
from kraken_history.runtime.tasks import end

EVERY_S = 2.5
"""Seconds between two looks at the sessions."""

_LONG_S = 5.0  # a statement that waits for less is not worth a word
_TIMEOUT_S = 5.0


class SessionWatch:
    """What the last look found.

    Attributes:
        wait: What the pool's longest waiting statement waits for, in words; empty if none waits for 5 s.
        sessions: The connections of the pool; :func:`~connections.create_pool` adds them.
        given_up: Connections that were given up, because the server had ended their sessions.
    """

    def __init__(self) -> None:
        self.wait = ""
        self.given_up = 0
        self.sessions: WeakSet[asyncpg.Connection] = WeakSet()


class _Session(Struct, frozen=True):
    pid: int
    kind: str | None
    event: str | None
    waits_s: float
    blockers: int


@asynccontextmanager
async def watching(database_url: str, watch: SessionWatch) -> AsyncIterator[None]:
    """Look at the sessions of ``watch`` every :data:`EVERY_S` seconds until the end of ``async with``.

    Behind a pooler nothing is watched: there, sessions are not ours, and the pooler ends them.
    """
    task = asyncio.create_task(_keep_looking(database_url, watch))
    try:
        yield
    finally:
        await end(task)


async def _keep_looking(database_url: str, watch: SessionWatch) -> None:
    while True:
        with suppress(HistoryError, asyncpg.PostgresError, *UNAVAILABLE):
            if not await _look_until_it_fails(database_url, watch):
                return
        watch.wait = ""
        await asyncio.sleep(EVERY_S)


async def _look_until_it_fails(database_url: str, watch: SessionWatch) -> bool:
    """Return False if there is a pooler, and thus nothing to watch. Otherwise it ends by an error only."""
    beside = await connect(database_url, for_writing=True)
    try:
        while not is_pooled(beside):
            await asyncio.sleep(EVERY_S)
            # Before the question, so that a connection of a later session does not count as ended.
            ours = {each.get_server_pid(): each for each in watch.sessions if not each.is_closed()}
            rows = await beside.fetch(_SESSIONS, list(ours), timeout=_TIMEOUT_S)
            there = {row["pid"]: _Session(**row) for row in rows}
            for pid in ours.keys() - there.keys():
                ours[pid].terminate()
                watch.given_up += 1
            watch.wait = in_words(there.values())
        return False
    finally:
        beside.terminate()


def in_words(sessions: Iterable["_Session"]) -> str:
    """What the longest waiting of these sessions waits for; empty if none waits long."""
    longest = max(sessions, key=lambda each: each.waits_s, default=None)
    if longest is None or longest.waits_s < _LONG_S or longest.event is None:
        return ""
    if longest.event == "SyncRep":
        return (
            "a commit waits for a synchronous standby that does not answer: start the standby,"
            " or correct synchronous_standby_names on the primary"
        )
    if longest.kind == "Lock":
        return f"a statement waits for a lock that {longest.blockers} other session(s) hold"
    return f"a statement waits for {longest.kind} {longest.event}"


_SESSIONS = """
    SELECT pid, wait_event_type AS kind, wait_event AS event, cardinality(pg_blocking_pids(pid)) AS blockers,
           CASE WHEN state = 'active' THEN extract(epoch FROM clock_timestamp() - query_start)::float8 ELSE 0 END
               AS waits_s
    FROM pg_stat_activity WHERE pid = ANY ($1::integer[])
"""
