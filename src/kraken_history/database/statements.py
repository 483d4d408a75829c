"""Connections of writers, which know whether they wait for an answer and do not wait for the end of a cancellation.

If a statement times out or its task is cancelled, asyncpg asks the server to cancel it, and then waits for the server's
answer without a limit: in the ROLLBACK that follows, and before the pool takes the connection back. On a connection
that went silent, the answer never comes.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

import asyncpg

CANCELLED_WITHIN_S = 10.0
"""Seconds within which the server must confirm a cancellation. Usually, it takes milliseconds."""

_CLOSE_TIMEOUT_S = 5.0

_COUNTERS = struct.Struct("@QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_COUNTERS_AT = 120  # in Linux's struct tcp_info, since 4.1


class WritersConnection(asyncpg.Connection):
    """A connection that records its statements."""

    _statement: object | None = None

    @property
    def statement(self) -> object | None:
        """Identifies the statement that waits for the server's answer; None if none does."""
        if self._statement is None and self._is_cancelling():
            return self
        return self._statement

    def traffic(self) -> tuple[int, ...]:
        """Bytes that the other side has acknowledged and sent, which change while data flow.

        Empty where this is not known: on a Unix socket, and on other systems than Linux.
        """
        transport: asyncio.Transport | None = getattr(self, "_transport", None)
        link: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
        if link is None or not hasattr(socket, "TCP_INFO"):
            return ()
        try:
            info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS_AT + _COUNTERS.size)
            return _COUNTERS.unpack_from(info, _COUNTERS_AT)
        except (OSError, struct.error):
            return ()

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As asyncpg's."""
        with self._waiting():
            return await super().execute(query, *args, **options)

    async def executemany(self, command: str, args: Any, **options: Any) -> None:
        """As asyncpg's."""
        with self._waiting():
            await super().executemany(command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        with self._waiting():
            return await super().fetch(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        with self._waiting():
            return await super().fetchval(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        with self._waiting():
            return await super().fetchrow(query, *args, **options)

    async def copy_to_table(self, table_name: str, *, source: Any, **options: Any) -> str:
        """As asyncpg's. While it waits for a chunk of an asynchronous source, it does not wait for the server."""
        with self._waiting():
            given = self._noting(source) if isinstance(source, AsyncIterator) else source
            return await super().copy_to_table(table_name, source=given, **options)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's."""
        with self._waiting():
            return await super().copy_records_to_table(table_name, **options)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 — it is asyncpg's
        """As asyncpg's. If no timeout is given, the connection is cut off after 5 s, without an error.

        A pool closes its outdated connections in the background without one, and nothing would end such a task.
        """
        if timeout is not None:
            await super().close(timeout=timeout)
            return
        with suppress(TimeoutError):
            await super().close(timeout=_CLOSE_TIMEOUT_S)

    async def _noting(self, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        self._statement = None
        async for chunk in source:
            self._statement = object()
            yield chunk  # the driver waits until it may send it
            self._statement = None
        self._statement = object()

    def _is_cancelling(self) -> bool:
        protocol: Any = getattr(self, "_protocol", None)  # asyncpg's pool asks it as well
        return not self.is_closed() and bool(protocol._is_cancelling())

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        outer, self._statement = self._statement, object()
        try:
            yield
        except (TimeoutError, asyncio.CancelledError):
            asyncio.get_running_loop().call_later(CANCELLED_WITHIN_S, self._give_up_cancellation)
            raise
        finally:
            self._statement = outer

    def _give_up_cancellation(self) -> None:
        if self._is_cancelling():
            self.terminate()


class Sessions:
    """The pools of one service that have sessions of their own, and their connections.

    :func:`~kraken_history.database.connections.create_pool` adds them.
    """

    def __init__(self) -> None:
        self.pools: list[asyncpg.Pool] = []
        self.connections: WeakSet[WritersConnection] = WeakSet()

    async def expire(self) -> None:
        """Replace the connections that are idle before their next use, and the others after it."""
        for pool in self.pools:
            await pool.expire_connections()
