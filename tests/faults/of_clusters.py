"""Several servers of Redis that fail over by themselves: Sentinel, and a cluster."""

from kraken_history.errors import HistoryError
from kraken_history.runtime.redis_urls import read_redis_url
from kraken_history.urls import InvalidUrl
from tests.faults.scenario import scenario
from tests.faults.servers import NotHereError
from tests.faults.system import System


def _understands(url: str) -> None:
    try:
        read_redis_url(url)
    except (InvalidUrl, HistoryError) as error:
        raise NotHereError(f"this version does not know such URLs ({error})") from error


def _sentinel() -> None:
    _understands("redis+sentinel://127.0.0.1:26379/history/0")


def _cluster() -> None:
    _understands("redis+cluster://127.0.0.1:7000")


_WHY = "the servers take 1 s to agree that the master is dead, and some more to elect another"


@scenario("sentinel-failover", "Three Sentinels promote a replica, since the master is killed.",
          redis="sentinel", needs=_sentinel, bound_s=20.0, why=_WHY)  # fmt: skip
async def _(system: System) -> None:
    await system.pause(0, 2)
    await system.redis.kill()


@scenario("sentinel-failover-frozen", "Three Sentinels promote a replica, since the master is frozen.",
          redis="sentinel", needs=_sentinel, bound_s=35.0,
          why=f"a connection counts as dead after 15 s without an answer, and {_WHY}")  # fmt: skip
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.redis.freeze()


@scenario("cluster-failover", "A cluster of three masters, each with a replica, loses one of the masters.",
          redis="cluster", needs=_cluster, bound_s=20.0, why=_WHY,
          settings={"STREAM_SHARDS": "3"}, consumers=2)  # fmt: skip
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.nodes[system.random.randrange(3)].kill()


@scenario("cluster-failover-frozen", "A cluster of three masters, each with a replica: one of the masters freezes.",
          redis="cluster", needs=_cluster, bound_s=35.0,
          why=f"a connection counts as dead after 15 s without an answer, and {_WHY}",
          settings={"STREAM_SHARDS": "3"}, consumers=2)  # fmt: skip
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.nodes[system.random.randrange(3)].freeze()


@scenario("shards-without-a-cluster", "Four shards and three consumers; two of the consumers are killed for good.",
          settings={"STREAM_SHARDS": "4"}, consumers=3, bound_s=20.0,
          why="the leases of a lost consumer expire after 5 s, and its entries wait until then")  # fmt: skip
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.kill("consumer", "consumer-3")
