"""Connections to Redis that notice silence, give up a server that has been replaced, and never lose a cancellation.

After a failover the old master may go on answering: it refuses writes, and its connections stay open. So a refusal
counts as a lost connection. It ends not only the connection that met it: each other connection of the pool is replaced
before its next use, because it leads to the same server.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.runtime.redis_sentinels import Master
from kraken_history.runtime.redis_urls import read_redis_url
from kraken_history.urls import DEFAULT_PREFIX, InvalidUrl

# In seconds. The socket timeout must be longer than a blocking read, or the read would be taken for a dead connection.
REDIS_TIMEOUTS: dict[str, Any] = {"socket_timeout": 15.0, "socket_connect_timeout": 5.0, "health_check_interval": 30}


_REFUSES_FOR_NOW = re.compile(
    r"\b(OOM|used memory > 'maxmemory'|MISCONF|READONLY|read only (replica|slave)|UNBLOCKED|MASTERDOWN|NOMASTERLINK"
    r"|NOREPLICAS|NOGOODSLAVE|LOADING|CLUSTERDOWN|TRYAGAIN|MOVED \d|ASK \d|BUSY Redis|BUSY Valkey|RDB snapshot"
    r"|Errors writing to the AOF)"
)
"""What a Redis says that is full, cannot save its data, or is a replica, perhaps only until it is promoted."""


_REPLICA = (b"replica", b"slave")


class RedisIsAway(NoConnection):
    """Redis refused a command for a reason that passes, and its connection was given up."""


class Generation:
    """Counts how often the connections of a pool have become outdated.

    Attributes:
        number: A connection of an earlier number is replaced before its next use.
    """

    def __init__(self) -> None:
        self.number = 0

    def end(self, number: int) -> None:
        """Outdate the connections of this generation, once: all of them may meet the same refusal."""
        if number == self.number:
            self.number += 1


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


class _Replaced(_Cancellable):
    """Treats a refusal as a lost connection, and connects anew if another connection of its pool was lost."""

    def __init__(self, *, generation: Generation, **options: Any) -> None:
        super().__init__(**options)
        self._generations = generation
        self._generation = generation.number

    async def connect(self) -> None:
        """As redis-py's; a pool calls it before each use."""
        if self.is_connected and self._generation != self._generations.number:
            await self.disconnect(nowait=True)
        if not self.is_connected:
            self._generation = self._generations.number
        await super().connect()  # type: ignore[no-untyped-call]

    async def on_connect(self) -> None:
        """As redis-py's; after an outage, refuse a replica: it would answer reads until the first write fails."""
        await super().on_connect()
        if self._generation and (await self._hello()).get(b"role") in _REPLICA:
            raise RedisIsAway("READONLY the server is a replica")

    async def _hello(self) -> dict[Any, Any]:
        """What the server says about itself; empty if it is older than Redis 6, or the account may not ask."""
        try:
            await self.send_command("HELLO", check_health=False)
            answer = await self.read_response()
        except ResponseError:
            return {}
        return dict(zip(answer[::2], answer[1::2], strict=True))

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if not refuses_for_now(error):
                raise
            self._generations.end(self._generation)
            await self.disconnect()
            raise RedisIsAway(*error.args) from error
        except (NoConnection, NoAnswer):
            self._generations.end(self._generation)
            raise


class _TcpConnection(_Replaced, Connection):
    pass


class _TlsConnection(_Replaced, SSLConnection):
    pass


class _SocketConnection(_Replaced, UnixDomainSocketConnection):
    pass


class _OfCluster(_Cancellable):
    """redis-py closes all connections of a cluster's client if one of them fails, even while others are read."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        try:
            return await super().read_response(*args, **options)
        except AttributeError as error:
            if error.obj is not None:
                raise
            raise NoConnection("the connection was closed while it was read") from error


class TcpOfCluster(_OfCluster, Connection):
    """Over TCP, to a node of a cluster."""


class TlsOfCluster(_OfCluster, SSLConnection):
    """Over TLS, to a node of a cluster."""


class _ToMaster(Connection):
    """Asks the Sentinels at each connection where the master is now."""

    def __init__(self, *, master: Master, **options: Any) -> None:
        super().__init__(**options)
        self._master = master

    async def _connect(self) -> None:
        self.host, self.port = await self._master.find()
        await super()._connect()  # type: ignore[no-untyped-call]


class _TcpToMaster(_Replaced, _ToMaster):
    pass


class _TlsToMaster(_Replaced, _ToMaster, SSLConnection):
    pass


_OURS: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _SocketConnection,
}
_TO_MASTER: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _TcpToMaster,
    SSLConnection: _TlsToMaster,
}


def refuses_for_now(error: Exception) -> bool:
    """True if the same command may succeed later: Redis is full, read-only or cannot write its disk."""
    return _REFUSES_FOR_NOW.search(str(error)) is not None


Pool = TypeVar("Pool", bound=ConnectionPool)


def pool_at(url: str, kind: type[Pool], **options: Any) -> Pool:
    """A pool of these connections; does not connect yet.

    Raises:
        InvalidUrl: The URL is not a Redis URL, or names a cluster.
    """
    address = read_redis_url(url)
    if address.kind == "cluster":
        raise InvalidUrl("expected one server or Sentinels, got a cluster")
    arguments = address.connection_arguments() | REDIS_TIMEOUTS | {"generation": Generation()} | options
    kind_of_connection = _OURS[address.connection_class]
    if address.kind == "sentinel":
        kind_of_connection = _TO_MASTER[address.connection_class]
        arguments["master"] = Master(address)
    pool = kind(connection_class=kind_of_connection, **arguments)
    setattr(pool, PREFIX_OF_KEYS, address.prefix)
    return pool


PREFIX_OF_KEYS = "prefix_of_keys"
"""Name of the attribute of a pool, or of a cluster's client, that holds the prefix."""


def prefix_of(redis: Redis) -> str:
    """First part of the names of our keys in this Redis, as its URL says."""
    prefix: str | None = getattr(redis, PREFIX_OF_KEYS, None)  # of a cluster, which has no pool
    if prefix is None:
        prefix = getattr(redis.connection_pool, PREFIX_OF_KEYS, None)
    return prefix or DEFAULT_PREFIX
