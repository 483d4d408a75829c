"""Connections to Redis that notice silence, and never lose a cancellation."""

import asyncio
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.runtime.redis_urls import read_redis_url
from kraken_history.urls import DEFAULT_PREFIX

# In seconds. The socket timeout must be longer than a blocking read, or the read would be taken for a dead connection.
REDIS_TIMEOUTS: dict[str, Any] = {"socket_timeout": 15.0, "socket_connect_timeout": 5.0, "health_check_interval": 30}


_REFUSES_FOR_NOW = re.compile(
    r"\b(OOM|used memory > 'maxmemory'|MISCONF|READONLY|read only (replica|slave)|MASTERDOWN|NOREPLICAS|NOGOODSLAVE"
    r"|LOADING|CLUSTERDOWN|TRYAGAIN|BUSY Redis|BUSY Valkey|RDB snapshot|Errors writing to the AOF)"
)
"""What a Redis says that is full, cannot save its data, or is a replica, perhaps only until it is promoted."""


class _Cancellable(AbstractConnection):
    """Sends as its base class does, but without ``asyncio.wait_for``.

    In Python 3.11 ``wait_for`` loses a cancellation that arrives together with its result, so the task would continue
    as if it had not been cancelled.
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
            raise NoAnswer("timed out while sending to Redis") from None
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


def refuses_for_now(error: Exception) -> bool:
    """True if the same command may succeed later: Redis is full, read-only or cannot write its disk."""
    return _REFUSES_FOR_NOW.search(str(error)) is not None


Pool = TypeVar("Pool", bound=ConnectionPool)


def pool_at(url: str, kind: type[Pool], **options: Any) -> Pool:
    """A pool of these connections; does not connect yet.

    Raises:
        InvalidUrl: The URL is not a Redis URL.
    """
    address = read_redis_url(url)
    arguments = address.connection_arguments() | REDIS_TIMEOUTS | options
    pool = kind(connection_class=_OURS[address.connection_class], **arguments)
    setattr(pool, _PREFIX_OF_POOL, address.prefix)
    return pool


_PREFIX_OF_POOL = "prefix_of_keys"


def prefix_of(redis: Redis) -> str:
    """First part of the names of our keys in this Redis, as its URL says."""
    prefix: str = getattr(redis.connection_pool, _PREFIX_OF_POOL, DEFAULT_PREFIX)
    return prefix
