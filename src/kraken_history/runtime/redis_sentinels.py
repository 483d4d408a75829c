"""Finds the current master of a Redis that Sentinels watch."""

import asyncio
from collections.abc import Sequence

from redis.asyncio import ConnectionPool, Redis, Sentinel
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError

from kraken_history.runtime.redis_urls import RedisUrl

_ANSWERS_WITHIN_S = 2.0
"""Limit for each step of a question to one Sentinel, in seconds. The next one is asked then."""


class Master:
    """The master of one name. Connections to the Sentinels are open only while they are asked."""

    def __init__(self, address: RedisUrl) -> None:
        self._name = address.master
        self._lock = asyncio.Lock()
        self._sentinels = Sentinel([])  # type: ignore[no-untyped-call]
        self._sentinels.sentinels = [_client(address, *host) for host in address.hosts]

    async def find(self) -> tuple[str, int]:
        """Host and port of the current master.

        Raises:
            redis.exceptions.ConnectionError: No Sentinel that can be reached knows a master that works.
        """
        async with self._lock:
            try:
                host, port = await self._sentinels.discover_master(self._name)
            except MasterNotFoundError as error:
                raise NoConnection(f"no Sentinel knows a working master {self._name}{_reason(error)}") from error
            except ResponseError as error:
                raise NoConnection(f"a Sentinel refused the question for the master: {error}") from error
            finally:
                await _close(self._sentinels.sentinels)
        return host, port


def _client(address: RedisUrl, host: str, port: int) -> Redis:
    pool = ConnectionPool(
        connection_class=address.connection_class,
        socket_timeout=_ANSWERS_WITHIN_S,
        socket_connect_timeout=_ANSWERS_WITHIN_S,
        **address.node_arguments(host, port),
    )
    return Redis.from_pool(pool)


async def _close(clients: Sequence[Redis]) -> None:
    await asyncio.gather(*(client.connection_pool.disconnect() for client in clients), return_exceptions=True)


def _reason(error: MasterNotFoundError) -> str:
    """redis-py names each Sentinel that it could not use; that one requires a password has a remedy of its own."""
    if "Authentication" in str(error) or "NOAUTH" in str(error):
        return ": a Sentinel requires a password: add sentinel_password to the URL"
    return ", or none can be reached" if " : " in str(error) else ""
