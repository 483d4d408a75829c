"""Connections to a server that refuses, has been replaced, or is of another kind than its URL says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from jobs.patience import Patience, PatientRedis
from kraken_history.embedded.process import HOST
from kraken_history.errors import ServiceUnavailable, UsageError
from kraken_history.runtime import redis_connections
from kraken_history.runtime.redis_access import connect_redis, connect_streams
from kraken_history.runtime.redis_connections import RedisIsAway, pool_at
from kraken_history.urls import UrlOfSetting
from tests.support.neighbours import certificates
from tests.support.proxy import Proxy
from tests.support.redis_servers import MASTER_NAME, cluster, master_and_replica, redis_node, sentinels
from tests.support.waiting import until

pytestmark = pytest.mark.servers

REFUSALS = [
    "READONLY You can't write against a read only replica.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MOVED 3999 127.0.0.1:6381",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "EXECABORT Transaction discarded because of: You can't write against a read only replica.",
]


@asynccontextmanager
async def refusing_server(refusal: str) -> AsyncIterator[str]:
    """A server whose first connection gets this answer to SET, and whose later ones get OK."""
    refused: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refused.append(writer)
        while data := await reader.read(65536):
            writer.write(b"+PONG\r\n" * data.count(b"\r\nPING\r\n"))
            for command in (b"CLIENT", b"HELLO"):
                writer.write(b"-ERR unknown command\r\n" * data.count(b"\r\n%b\r\n" % command))
            if b"\r\nSET\r\n" in data:
                writer.write(f"-{refusal}\r\n".encode() if writer is refused[0] else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        yield f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda text: text.split()[0])
async def test_a_refusal_ends_the_connection_and_the_next_one_is_used(
    refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patience, "lasts_as_long_as", None)
    async with refusing_server(refusal) as url, Redis.from_pool(pool_at(url, ConnectionPool)) as redis:
        with pytest.raises(NoConnection):
            await redis.set("a", 1)
        assert await redis.set("a", 1)
    async with refusing_server(refusal) as url, PatientRedis.at(url) as patient:
        assert await patient.set("a", 1)


async def test_one_refusal_replaces_all_connections_of_a_client() -> None:
    # Each of them leads to the old master. It would answer reads with old data, and refuse the next write.
    with master_and_replica() as (old, new):
        async with Proxy(old.url) as proxy, await connect_redis(proxy.url) as redis:
            await asyncio.gather(*(redis.set(f"{n}", n) for n in range(4)))
            new.ask("REPLICAOF", "NO", "ONE")
            old.ask("REPLICAOF", HOST, new.port)
            proxy.lead_to(new.url)

            with pytest.raises(RedisIsAway):
                await redis.set("a", 1)
            assert await asyncio.gather(*(redis.set(f"{n}", n) for n in range(4))) == [True] * 4


async def test_a_replica_that_answers_reads_is_refused_after_an_outage() -> None:
    with master_and_replica() as (old, new):
        async with await connect_redis(old.url) as redis:
            new.ask("REPLICAOF", "NO", "ONE")
            old.ask("REPLICAOF", HOST, new.port)
            await until(old.is_connected_replica)
            with pytest.raises(RedisIsAway):
                await redis.set("a", 1)

            with pytest.raises(RedisIsAway, match="the server is a replica"):
                await redis.get("a")
            old.ask("REPLICAOF", "NO", "ONE")
            assert await redis.get("a") is None


async def test_a_master_that_falls_silent_is_left_for_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(redis_connections.REDIS_TIMEOUTS, "socket_timeout", 0.5)
    with master_and_replica() as (old, new), sentinels(old) as watching:
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in watching)
        async with await connect_redis(f"redis+sentinel://{hosts}/{MASTER_NAME}") as redis:
            await redis.set("a", 1)
            old.freeze()

            async def is_set() -> bool:
                try:
                    return bool(await redis.set("a", 2))
                except (NoConnection, NoAnswer):
                    return False

            await until(is_set)
            assert new.says("2", "GET", "a")
        watching[0].kill()
        async with await connect_redis(f"redis+sentinel://{hosts}/{MASTER_NAME}") as redis:
            assert await redis.get("a") == b"2"
        with pytest.raises(ServiceUnavailable, match="no Sentinel knows a working master other"):
            await connect_redis(f"redis+sentinel://{hosts}/other")
        with pytest.raises(UsageError, match=r"is a Sentinel: write redis\+sentinel://…/master-name in REDIS_URL"):
            await connect_redis(watching[1].url)


async def test_a_cluster_of_one_node_is_a_cluster() -> None:
    with cluster(1) as (node,):
        url = f"redis+cluster://{HOST}:{node.port}"
        async with await connect_streams(url) as streams:
            for n in range(8):
                assert await streams.xadd(f"kraken:trades:{{{n}}}", {"a": n})
            pipeline = streams.pipeline(transaction=False)
            for n in range(8):
                pipeline.xlen(f"kraken:trades:{{{n}}}")
            assert await pipeline.execute() == [1] * 8
        with pytest.raises(UsageError, match=r"part of a cluster: write redis\+cluster:// in REDIS_URL"):
            await connect_redis(node.url)
        with pytest.raises(UsageError, match=r"part of a cluster: name another Redis in JOBS_REDIS_URL"):
            await connect_redis(UrlOfSetting(node.url, "JOBS_REDIS_URL"))
    with pytest.raises(ServiceUnavailable, match=f"no Redis answers at {HOST}"):
        await connect_streams(url)


async def test_sentinels_and_clusters_are_reached_over_tls() -> None:
    with certificates() as folder:
        trusted = f"ssl_ca_certs={folder}/ca.crt"
        with redis_node(tls=folder) as master, redis_node(kind="redis-sentinel", tls=folder) as sentinel:
            sentinel.ask("SENTINEL", "MONITOR", MASTER_NAME, HOST, master.port, 1)
            place = f"{HOST}:{sentinel.port}/{MASTER_NAME}"
            async with await connect_redis(f"rediss+sentinel://{place}/1?{trusted}") as redis:
                assert await redis.set("a", 1)
            with pytest.raises((UsageError, ServiceUnavailable)):
                await connect_redis(f"redis+sentinel://{place}/1")
        with redis_node("cluster-enabled yes", "tls-cluster yes", tls=folder) as node:
            node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: node.says("cluster_state:ok", "CLUSTER", "INFO"))
            async with await connect_streams(f"rediss+cluster://{HOST}:{node.port}?{trusted}") as streams:
                assert await streams.xadd("a", {"b": 1})
            with pytest.raises(UsageError, match="certificate"):
                await connect_streams(f"rediss+cluster://{HOST}:{node.port}")


async def test_a_server_on_its_own_is_not_a_cluster() -> None:
    with redis_node(password="p") as node:
        for account, said in (("", "password"), (":q@", "password"), (":p@", "is not part of a cluster")):
            with pytest.raises(UsageError, match=said):
                await connect_streams(f"redis+cluster://{account}{HOST}:{node.port}")


async def test_streams_of_several_nodes_are_read_together() -> None:
    names = [f"kraken:trades:{{{n}}}" for n in range(4)]
    with cluster(2) as nodes:
        async with await connect_streams(f"redis+cluster://{HOST}:9,{HOST}:{nodes[1].port}") as streams:
            for name in names:
                await streams.xgroup_create(name, "store", id="0", mkstream=True)
                await streams.xadd(name, {"a": name})
                assert await streams.eval("return redis.call('XLEN', KEYS[1])", 1, name) == 1  # type: ignore[misc]
            answer = await streams.xreadgroup("store", "me", dict.fromkeys(names, ">"), count=10, block=10)
            nothing = await streams.xreadgroup("store", "me", dict.fromkeys(names, ">"), count=10, block=10)

        assert sorted(stream.decode() for stream, _ in answer) == names
        assert nothing == []
        assert len({node.port for node in nodes for name in names if node.says(name, "KEYS", "*")}) == 2
