"""The client of a cluster that holds the streams: redis-py's, which can also wait for a cluster that is away."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis._parsers import AsyncCommandsParser
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisClusterException

from kraken_history.runtime.redis_connections import PREFIX_OF_KEYS, REDIS_TIMEOUTS, TcpOfCluster, TlsOfCluster
from kraken_history.runtime.redis_urls import RedisUrl

_LONGEST_BLOCK_MS = 50
"""Longest wait for entries, in milliseconds, if streams on several nodes are read together.

Each node waits on its own, so an entry of one is held back while the others wait.
"""


class StreamsCluster(RedisCluster):
    """A cluster, by the commands that the streams need.

    redis-py forgets the nodes that failed, even if none is left, and raises errors that are not Redis errors if no
    node can tell which one has a key.
    """

    connection_pool: Any = None  # each node has connections of its own

    def __init__(self, address: RedisUrl) -> None:
        self._address = address
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            require_full_coverage=False,  # a part of the streams that can be used is used
            connection_error_retry_attempts=0,
            cluster_error_retry_attempts=1,  # the services try again themselves
            **address.cluster_arguments(),
            **REDIS_TIMEOUTS,
        )
        setattr(self, PREFIX_OF_KEYS, address.prefix)
        self.commands_parser = _LazyParser()
        self.connection_kwargs["connection_class"] = TcpOfCluster if address.tls is None else TlsOfCluster
        self.nodes_manager.startup_nodes = {}

    async def initialize(self) -> "StreamsCluster":
        """Ask the nodes which of them has which slots, if that is not known."""
        if self._initialize:
            for host, port in self._address.hosts:
                node = ClusterNode(host, port, **self.connection_kwargs)
                self.nodes_manager.startup_nodes.setdefault(node.name, node)
        with _as_outages():
            await super().initialize()
        return self

    async def _determine_slot(self, command: str, *args: Any) -> int:
        """As redis-py's, which asks a node where XREADGROUP has its keys."""
        place = {"EVAL": 2, "EVALSHA": 2}.get(command, 0)
        if command == "XREADGROUP":
            place = args.index(b"STREAMS") + 1
        key: Any = args[place]
        return self.keyslot(key)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        with _as_outages():
            return await super().execute_command(*args, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """As redis-py's; its commands are sent to each node together, and never as a transaction."""
        return _Pipeline(self)

    async def xreadgroup(
        self,
        groupname: str,
        consumername: str,
        streams: dict[Any, Any],
        count: int | None = None,
        block: int | None = None,
        noack: bool = False,
    ) -> Any:
        """As redis-py's, also for streams on several nodes."""
        by_slot: dict[int, dict[Any, Any]] = {}
        for stream, after in streams.items():
            by_slot.setdefault(self.keyslot(stream), {})[stream] = after
        read = super().xreadgroup
        if len(by_slot) == 1:
            return await read(groupname, consumername, streams, count, block, noack)
        block = None if block is None else min(block, _LONGEST_BLOCK_MS)
        answers = await asyncio.gather(
            *(read(groupname, consumername, part, count, block, noack) for part in by_slot.values())
        )
        return [entries for answer in answers for entries in answer or ()]


class _Pipeline(ClusterPipeline):
    connection_pool: Any = None

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """As redis-py's."""
        with _as_outages():
            answers: list[Any] = await super().execute(raise_on_error, allow_redirections)
        return answers


class _LazyParser(AsyncCommandsParser):
    """Knows no commands: :meth:`StreamsCluster._determine_slot` needs none, and the node to ask may be away."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        """Ask nobody."""


@contextmanager
def _as_outages() -> Iterator[None]:
    """Raise redis-py's errors about the slots as lost connections: they are not among its own errors."""
    try:
        yield
    except (RedisClusterException, IndexError) as error:  # IndexError: no node has any slot
        raise NoConnection(f"the cluster cannot be used: {error}") from error
