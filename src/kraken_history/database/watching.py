"""Watches the sessions of a service's pools from a connection beside them.

If a statement gets no answer, either it waits on the server, or the network is silent. Only the server knows, so it is
asked. What a statement waits for is put into words. If the server has ended the session, or itself waits for the
client, the connection is dead: it is cut off, so that the statement fails and is tried again on a new connection.

The same look finds writers elsewhere that are frozen in the middle of a COPY. Their sessions are neither idle nor
without a living client, so nothing on the server ends them, and all others wait for the locks that they hold.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from weakref import WeakKeyDictionary

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import connect
from kraken_history.database.failures import UNAVAILABLE
from kraken_history.database.poolers import is_pooled
from kraken_history.database.statements import Sessions, WritersConnection
from kraken_history.errors import HistoryError
from kraken_history.runtime.tasks import end

EVERY_S = 2.5
"""Seconds between two looks at the sessions."""

SILENT_S = 5.0
"""Seconds for which a statement must wait without any traffic before its connection may be dead."""

FROZEN_S = 10.0
"""Seconds for which a COPY of another writer may lack data while ours wait for it; as long as any other statement of a
transaction may (``LONGEST_IDLE_S``)."""

_LONG_S = 5.0  # a statement that waits for less is not worth a word
_TIMEOUT_S = 5.0


class SessionWatch:
    """What the last look found.

    Args:
        note: Logs a warning: takes the event's name, and its values as keywords.

    Attributes:
        wait: What the pool's longest waiting statement waits for, in words; empty if none waits for 5 s.
        sessions: The sessions that are watched.
        given_up: Connections that were cut off, because they were dead.
        ended: Sessions of frozen writers that were ended.
    """

    def __init__(self, note: Callable[..., object] = lambda *_, **__: None) -> None:
        self._note = note
        self.wait = ""
        self.given_up = 0
        self.ended = 0
        self.sessions = Sessions()
        self._silent: WeakKeyDictionary[WritersConnection, _Silence] = WeakKeyDictionary()
        self._seen: WeakKeyDictionary[WritersConnection, _Session] = WeakKeyDictionary()
        self._copying: dict[tuple[int, datetime], tuple[int, float]] = {}

    async def look(self, beside: asyncpg.Connection) -> None:
        """Look once, over a connection that is not one of the pools'."""
        # Before the question, so that a connection of a later session does not count as ended.
        ours = {each.get_server_pid(): each for each in self.sessions.connections if not each.is_closed()}
        for connection in ours.values():
            self._listen(connection)
        rows = await beside.fetch(_SESSIONS, list(ours), timeout=_TIMEOUT_S)
        sessions = {row["pid"]: _Session(**row) for row in rows}
        dead = {pid: each for pid, each in ours.items() if self._is_dead(each, sessions.get(pid))}
        for connection in dead.values():
            connection.terminate()
        self.given_up += len(dead)
        self.wait = in_words(session for pid, session in sessions.items() if pid not in dead)
        if dead:
            self._note("dead_connections", number=len(dead))
            await self.sessions.expire()  # the network has lost the other connections too, probably
        if lost := [sessions[pid] for pid in dead if pid in sessions]:  # until they end, they hold their locks
            await _end(beside, [(session.pid, session.began) for session in lost])
        await self._end_frozen(beside, [pid for pid, session in sessions.items() if session.blockers])

    def _listen(self, connection: WritersConnection) -> None:
        """Note since when nothing has changed on a connection, as this process sees it."""
        statement, traffic, now_s = connection.statement, connection.traffic(), time.monotonic()
        silence = self._silent.get(connection)
        if silence is None or silence.statement is not statement or silence.traffic != traffic:
            self._silent[connection] = _Silence(statement, traffic, now_s)

    def _is_dead(self, connection: WritersConnection, session: "_Session | None") -> bool:
        """True if the server has ended the session, or both sides have waited for each other since the last look."""
        before = self._seen.get(connection)
        if session is None or (before is not None and before.began != session.began):
            return not connection.is_closed()
        self._seen[connection] = session
        silence = self._silent[connection]
        return (
            silence.statement is not None
            and silence.statement is connection.statement  # the answer has not come during this look
            and time.monotonic() - silence.since_s >= SILENT_S
            and before is not None
            and before.waits_for_client
            and session.waits_for_client
            and before.progress == session.progress
        )

    async def _end_frozen(self, beside: asyncpg.Connection, waiting: Sequence[int]) -> None:
        """End the sessions of other writers for which our sessions wait, and which themselves wait for data of a COPY.

        Only sessions with the application's name of ours are ended. PostgreSQL allows it to the same user, to its
        members, and to superusers.
        """
        copying, self._copying = self._copying, {}
        if not waiting:
            return
        now_s = time.monotonic()
        for row in await beside.fetch(_COPYING, waiting, timeout=_TIMEOUT_S):
            key = row["pid"], row["began"]
            nbytes, since_s = copying.get(key, (-1, now_s))
            self._copying[key] = row["bytes"], since_s if nbytes == row["bytes"] else now_s
        frozen = [key for key, (_, since_s) in self._copying.items() if now_s - since_s >= FROZEN_S]
        if frozen:
            self.ended += await _end(beside, frozen)
            self._note("frozen_sessions_ended", pids=[pid for pid, _ in frozen])


class _Session(Struct, frozen=True):
    """A session, as the server sees it.

    Attributes:
        progress: Changes with each statement, and while a COPY receives data.
    """

    pid: int
    kind: str | None
    event: str | None
    waits_s: float
    blockers: int
    began: datetime | None = None
    state: str | None = None
    progress: str = ""

    @property
    def waits_for_client(self) -> bool:
        """True between two statements, and while one can go on only if its client sends or takes data."""
        return (self.state or "").startswith("idle") or (self.state == "active" and self.kind == "Client")


class _Silence(Struct, frozen=True):
    """A time in which nothing has changed on a connection, as this process sees it.

    Attributes:
        since_s: Its begin, on the monotonic clock.
    """

    statement: object | None
    traffic: tuple[int, ...]
    since_s: float


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
        has_looked = False
        with suppress(HistoryError, asyncpg.PostgresError, *UNAVAILABLE):
            beside = await connect(database_url, for_writing=True)
            try:
                while not is_pooled(beside):
                    await watch.look(beside)
                    has_looked = True
                    await asyncio.sleep(EVERY_S)
                return  # nothing to watch
            finally:
                beside.terminate()
        watch.wait = ""
        if has_looked:  # this connection was lost, and so were those of the pools, probably
            await watch.sessions.expire()
        else:
            await asyncio.sleep(EVERY_S)


async def _end(beside: asyncpg.Connection, sessions: Sequence[tuple[int, datetime | None]]) -> int:
    """End these sessions, by process and start, if they still exist; return how many."""
    pids, began = [pid for pid, _ in sessions], [began for _, began in sessions]
    return len(await beside.fetch(_END, pids, began, timeout=_TIMEOUT_S))


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
               AS waits_s,
           backend_start AS began, state, concat_ws(' ', query_start, state_change, copy.bytes_processed) AS progress
    FROM pg_stat_activity LEFT JOIN pg_stat_progress_copy AS copy USING (pid) WHERE pid = ANY ($1::integer[])
"""

# A session of the same application that a waiting one of ours waits for, and that waits for data of its client.
_COPYING = """
    SELECT DISTINCT other.pid, other.backend_start AS began, copy.bytes_processed AS bytes
    FROM unnest($1::integer[]) AS ours (pid)
    JOIN pg_stat_activity AS mine ON mine.pid = ours.pid
    CROSS JOIN unnest(pg_blocking_pids(ours.pid)) AS blocker (pid)
    JOIN pg_stat_activity AS other ON other.pid = blocker.pid AND other.application_name = mine.application_name
    JOIN pg_stat_progress_copy AS copy ON copy.pid = other.pid AND copy.command = 'COPY FROM'
    WHERE other.datid = mine.datid AND mine.application_name <> '' AND other.wait_event = 'ClientRead'
      AND other.state = 'active' AND pg_has_role(other.usesysid, 'MEMBER')
"""

# The sessions are chosen first: as a condition of one query, the function might be called for each of the server's.
_END = """
    WITH lost AS MATERIALIZED (
        SELECT pid FROM pg_stat_activity
        JOIN unnest($1::integer[], $2::timestamptz[]) AS wanted (pid, began) USING (pid)
        WHERE backend_start = began
    )
    SELECT pid FROM lost WHERE pg_terminate_backend(pid)
"""
