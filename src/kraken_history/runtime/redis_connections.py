"""Connections to Redis that notice silence, and never lose a cancellation."""

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

# So long a connection may be silent: a blocking read must have ended before its socket is taken for dead.
REDIS_TIMEOUTS: dict[str, Any] = {"socket_timeout": 15.0, "socket_connect_timeout": 5.0, "health_check_interval": 30}


class _Cancellable(AbstractConnection):
    """Sends as its base class does, but for ``asyncio.wait_for``.

    That of Python 3.11 returns what has just come and forgets a cancellation that came with it, so that a task goes
    on as if nobody had asked it to end.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]
        elif check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command([command] if isinstance(command, bytes) else command)
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise NoAnswer("Redis takes nothing more") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise NoConnection(f"sending to Redis failed: {error}") from error
        except BaseException:  # half a command may have been sent
            await self.disconnect(nowait=True)
            raise


class _TcpConnection(_Cancellable, Connection):
    pass


class _TlsConnection(_Cancellable, SSLConnection):
    pass


class _SocketConnection(_Cancellable, UnixDomainSocketConnection):
    pass


_OURS: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _SocketConnection,
}

Pool = TypeVar("Pool", bound=ConnectionPool)


def pool_at(url: str, kind: type[Pool], **options: Any) -> Pool:
    """A pool of such connections; nothing is opened yet.

    Raises:
        ValueError: It is not a Redis URL.
    """
    pool = kind.from_url(url, **REDIS_TIMEOUTS, **options)
    pool.connection_class = _OURS[pool.connection_class]
    return pool
