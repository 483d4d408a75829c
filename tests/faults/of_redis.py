"""A Redis that is killed, wiped, full, frozen, demoted, or moved."""

import asyncio

from redis.asyncio import Redis

from tests.faults.scenario import BOTH, scenario
from tests.faults.servers import RedisServer
from tests.faults.system import System, until_true

_TAIL_WHY = "a lost tail is noticed within 10 s, by two comparisons with the producer's sign of life"


@scenario("redis-killed", "Redis is killed, and started again with its data.", short=True)
async def _(system: System) -> None:
    await system.pause(0, 2)
    await system.own_redis.kill()
    await system.pause(1, 3)
    await system.own_redis.start()


@scenario("redis-killed-often", "Redis is killed five times, at random moments after each start.")
async def _(system: System) -> None:
    for _ in range(5):
        await system.pause(0.2, 3)
        await system.own_redis.kill()
        await system.own_redis.start()


@scenario("redis-killed-without-data", "Redis is killed, and started again with nothing in it.", flavours=BOTH)
async def _(system: System) -> None:
    await system.pause(0, 2)
    await system.own_redis.kill()
    system.own_redis.lose_data()
    await system.pause(1, 3)
    await system.own_redis.start()


@scenario("redis-wiped", "FLUSHALL, three times, while everything runs.", flavours=BOTH)
async def _(system: System) -> None:
    for _ in range(3):
        await system.pause(0, 3)
        await _command(system, "FLUSHALL")


@scenario("redis-wiped-with-a-backlog", "FLUSHALL while the consumer is down and the stream is long.")
async def _(system: System) -> None:
    system.kill("consumer")
    await system.until_traded(1_500)
    await _command(system, "FLUSHALL")
    system.start("consumer")


@scenario("redis-full", "Redis refuses every write for 5–10 s: it is at maxmemory.")
async def _(system: System) -> None:
    await system.pause(0, 2)
    await _command(system, "CONFIG", "SET", "maxmemory", "1")
    await system.pause(5, 10)
    await _command(system, "CONFIG", "SET", "maxmemory", "0")


@scenario("redis-cannot-save", "Redis refuses every write for 5–10 s: it cannot save (MISCONF).")
async def _(system: System) -> None:
    await system.pause(0, 2)
    (system.own_redis.folder / "dump.rdb").mkdir()  # so that no file can have this name
    await _command(system, "CONFIG", "SET", "save", "1 1")
    await system.until_refused("MISCONF")
    await system.pause(5, 10)
    await _command(system, "CONFIG", "SET", "save", "")
    await _command(system, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


@scenario("redis-without-replicas", "Redis refuses every write for 5–10 s: too few replicas (NOREPLICAS).")
async def _(system: System) -> None:
    await system.pause(0, 2)
    await _command(system, "CONFIG", "SET", "min-replicas-to-write", "1")
    await system.pause(5, 10)
    await _command(system, "CONFIG", "SET", "min-replicas-to-write", "0")


@scenario("redis-read-only", "Redis becomes a replica for 5–10 s, and the master again.")
async def _(system: System) -> None:
    await system.pause(0, 2)
    await _command(system, "REPLICAOF", "127.0.0.1", "9")
    await system.pause(5, 10)
    await _command(system, "REPLICAOF", "NO", "ONE")


@scenario(
    "redis-demoted",
    "A replica takes over. The old master becomes its replica, keeps all connections, and goes on answering.",
)
async def _(system: System) -> None:
    replica = RedisServer(system.folder / "replica", password=system.redis.password)
    await replica.start()
    old = system.own_redis
    try:
        await _command(replica, "CONFIG", "SET", "masterauth", old.password)
        await _command(old, "CONFIG", "SET", "masterauth", old.password)
        await _command(replica, "REPLICAOF", "127.0.0.1", str(old.port))
        await _until_synchronized(replica)
        await system.pause(0, 2)
        await _command(replica, "REPLICAOF", "NO", "ONE")
        await _command(old, "REPLICAOF", "127.0.0.1", str(replica.port))
        system.redis = replica
        for line in system.lines_to("redis"):
            line.server_port = replica.port
        await system.until_stored(500)
    except BaseException:
        await replica.kill()
        raise
    system.at_end(old.kill)
    system.at_end(replica.kill)


@scenario(
    "redis-loses-the-tail", "The last trades are lost in Redis, and nothing newer comes.",
    bound_s=20.0, why=_TAIL_WHY,
)  # fmt: skip
async def _(system: System) -> None:
    system.kill("consumer")
    await system.until_traded(200)
    await system.kraken.stop()
    system.stays_stopped = True
    await asyncio.sleep(0.5)  # until the last trades are published
    await _command(system, "FLUSHALL")
    system.start("consumer")


def _frozen(seconds: int) -> None:
    @scenario(f"redis-frozen-{seconds}s", f"Redis is stopped for {seconds} s and goes on.")
    async def _(system: System) -> None:
        await system.pause(0, 2)
        system.redis.freeze()
        await asyncio.sleep(seconds)
        system.redis.thaw()


for _seconds in (5, 20, 60):
    _frozen(_seconds)


async def _command(where: System | RedisServer, *words: str) -> object:
    server = where.own_redis if isinstance(where, System) else where
    async with Redis.from_url(server.url(), socket_timeout=10) as redis:
        return await redis.execute_command(*words)


async def _until_synchronized(replica: RedisServer) -> None:
    async with Redis.from_url(replica.url()) as redis:

        async def is_synchronized() -> bool:
            return bool((await redis.info("replication")).get("master_link_status") == "up")

        await until_true(is_synchronized, "the replica is synchronized", 20)
