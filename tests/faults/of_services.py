"""Processes that are killed, ended and frozen, at random moments and at those that matter."""

import asyncio

from tests.faults.scenario import BOTH, scenario
from tests.faults.system import System, until_true

_COPYING = b"COPY "  # the text of the statement; the rows follow
_COMMITTED = b"COMMIT\x00"
_ACK = b"XACK"
_ADD = b"XADD"
_ENQUEUE = b":arq:job:"


@scenario("producer-killed", "The producer is killed and started again 1–3 s later.", short=True, flavours=BOTH)
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.kill("producer")
    await system.pause(1, 3)
    system.start("producer")


@scenario("producer-killed-often", "The producer is killed five times, at random moments after each start.")
async def _(system: System) -> None:
    for _ in range(5):
        await system.pause(0.2, 3)
        system.kill("producer")
        system.start("producer")


@scenario("producer-killed-before-xadd", "The producer is killed after it received trades and before Redis got them.")
async def _(system: System) -> None:
    line = system.line("producer", "redis")
    await line.freeze("before", _ADD, "to server").wait()
    system.kill("producer")
    system.start("producer")


@scenario("producer-killed-after-xadd", "The producer is killed after Redis got its trades and before it knew.")
async def _(system: System) -> None:
    line = system.line("producer", "redis")
    await line.freeze("after", _ADD, "to server").wait()
    await asyncio.sleep(0.5)
    system.kill("producer")
    system.start("producer")


@scenario("producer-terminated", "The producer is told to stop under load, and started again.", rate=1_000.0)
async def _(system: System) -> None:
    for _ in range(2):
        await system.pause(0.5, 2)
        await system.terminate("producer")
        system.start("producer")
        await system.until_started()
        await system.until_stored(500)


@scenario("two-producers-one-killed", "Of two producers, one is killed for good.", producers=2)
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.kill("producer")
    await system.until_stored(1_000)


@scenario("consumer-killed", "The consumer is killed and started again 1–3 s later.", flavours=BOTH)
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.kill("consumer")
    await system.pause(1, 3)
    system.start("consumer")


@scenario("consumer-killed-often", "The consumer is killed six times, at random moments after each start.")
async def _(system: System) -> None:
    for _ in range(6):
        await system.pause(0.2, 3)
        system.kill("consumer")
        system.start("consumer")


@scenario("consumer-killed-in-copy", "The consumer is killed while it copies trades into the database.", flavours=BOTH)
async def _(system: System) -> None:
    await system.line("consumer", "database").freeze("before", _COPYING, "to server").wait()
    system.kill("consumer")
    system.start("consumer")


@scenario("consumer-killed-before-commit", "The consumer is killed just before its COMMIT.")
async def _(system: System) -> None:
    await system.line("consumer", "database").freeze("before", b"COMMIT;", "to server").wait()
    system.kill("consumer")
    system.start("consumer")


@scenario(
    "consumer-killed-after-commit", "The consumer is killed between the commit and the acknowledgement.",
    short=True, flavours=BOTH,
)  # fmt: skip
async def _(system: System) -> None:
    await system.line("consumer", "database").freeze("before", _COMMITTED, "to client").wait()
    system.kill("consumer")
    system.start("consumer")


@scenario("consumer-killed-before-xack", "The consumer is killed when its acknowledgement is on its way to Redis.")
async def _(system: System) -> None:
    await system.line("consumer", "redis").freeze("before", _ACK, "to server").wait()
    system.kill("consumer")
    system.start("consumer")


@scenario("consumer-killed-after-xack", "The consumer is killed after Redis got its acknowledgement.")
async def _(system: System) -> None:
    await system.line("consumer", "redis").freeze("after", _ACK, "to server").wait()
    system.kill("consumer")
    system.start("consumer")


@scenario("consumer-killed-before-enqueue", "The consumer is killed between the commit and the report of missing ids.")
async def _(system: System) -> None:
    watch = system.line("consumer", "redis").freeze("before", _ENQUEUE, "to server")
    await system.make_hole()
    await watch.wait()
    system.kill("consumer")
    system.start("consumer")


@scenario("consumer-terminated", "The consumer is told to stop under load, and started again.", rate=1_000.0)
async def _(system: System) -> None:
    for _ in range(2):
        await system.pause(0.5, 2)
        await system.terminate("consumer")
        system.start("consumer")
        await system.until_started()
        await system.until_stored(500)


@scenario(
    "four-consumers-three-killed", "Of four consumers, three are killed for good.",
    consumers=4, bound_s=20.0, why="the leases of a lost consumer expire after 5 s, and its entries wait until then",
)  # fmt: skip
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.kill("consumer", "consumer-2", "consumer-3")


@scenario(
    "consumer-frozen-in-transaction", "One of two consumers freezes in the middle of a transaction; the other goes on.",
    consumers=2, flavours=BOTH,
    bound_s=20.0, why="the leases of a lost consumer expire after 5 s, and its entries wait until then",
)  # fmt: skip
async def _(system: System) -> None:
    watches = {
        name: system.line(name, "database").freeze("before", _COPYING, "to server")
        for name in ("consumer", "consumer-2")
    }
    await until_true(lambda: any(watch.seen for watch in watches.values()), "a consumer copies", 30)
    system.freeze_for_good(next(name for name, watch in watches.items() if watch.seen))
    await system.until_stored(500, within_s=60)


@scenario(
    "consumer-frozen-in-copy", "One of two consumers freezes in the middle of a COPY; the other goes on.",
    consumers=2, flavours=BOTH,
)  # fmt: skip
async def _(system: System) -> None:
    watches = {
        name: system.line(name, "database").freeze("after", _COPYING, "to server")
        for name in ("consumer", "consumer-2")
    }
    await until_true(lambda: any(watch.seen for watch in watches.values()), "a consumer copies", 30)
    frozen = next(name for name, watch in watches.items() if watch.seen)
    system.freeze_for_good(frozen)
    for watch in watches.values():
        watch.passed.set()  # the other may copy
    await system.until_stored(500, within_s=45)


@scenario("worker-killed", "The worker is killed while ids are missing, and started again.", flavours=BOTH)
async def _(system: System) -> None:
    await system.make_hole()
    await system.pause(0, 1)
    system.kill("worker")
    await system.pause(0, 2)
    system.start("worker")


@scenario("worker-killed-before-the-page", "The worker is killed while it waits for a page of trades.")
async def _(system: System) -> None:
    watch = system.line("worker", "rest").freeze("before", b'"last":', "to client")
    await system.make_hole()
    await watch.wait()
    system.kill("worker")
    system.start("worker")


@scenario("worker-killed-in-copy", "The worker is killed while it stores a page.")
async def _(system: System) -> None:
    watch = system.line("worker", "database").freeze("before", _COPYING, "to server")
    await system.make_hole()
    await watch.wait()
    system.kill("worker")
    system.start("worker")


@scenario("worker-killed-after-commit", "The worker is killed between the commit of a page and the end of its job.")
async def _(system: System) -> None:
    watch = system.line("worker", "database").freeze("before", _COPYING, "to server")
    await system.make_hole()
    await watch.wait()
    committed = system.line("worker", "database").freeze("before", _COMMITTED, "to client")
    await system.line("worker", "database").restore()
    await committed.wait()
    system.kill("worker")
    system.start("worker")


@scenario("worker-terminated", "The worker is told to stop while it heals, and started again.")
async def _(system: System) -> None:
    for _ in range(2):
        await system.make_hole()
        await system.pause(0, 1)
        await system.terminate("worker")
        system.start("worker")


@scenario(
    "worker-killed-in-backfill", "The worker is killed five times while it fetches a history.",
    history=20_000, flavours=BOTH, settings={"BACKFILL_LEASE_S": "2"},
)  # fmt: skip
async def _(system: System) -> None:
    for _ in range(5):
        await system.pause(1, 3)
        system.kill("worker")
        system.start("worker")


@scenario("everything-killed", "All services are killed at the same moment, and started again.", short=True)
async def _(system: System) -> None:
    await system.pause(0, 2)
    system.kill(*system.services)
    await system.pause(0, 2)
    system.start(*system.services)


def _frozen(kind: str, seconds: int) -> None:
    @scenario(f"{kind}-frozen-{seconds}s", f"The {kind} is stopped for {seconds} s and goes on.")
    async def _(system: System) -> None:
        await system.pause(0, 2)
        await system.freeze(kind, seconds)


for _kind in ("producer", "consumer", "worker"):
    for _seconds in (5, 20, 60):
        _frozen(_kind, _seconds)
