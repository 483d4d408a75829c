"""Entries that nobody should have written, clocks that are off, and upkeep while everything writes."""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec

from kraken_history.records import HistoricalTrade
from kraken_history.storing.aggregates import RefreshIsRunning, refresh
from kraken_history.storing.retention import drop_old
from kraken_history.stream import wire
from tests.faults.scenario import BOTH, scenario
from tests.faults.system import SYMBOLS, System
from tests.support.services import REPOSITORY
from tests.support.streams import publish

_NOW = "2026-01-05T12:00:00Z"
_POISON: tuple[tuple[Any, ...], ...] = (
    (1, "POISON/USD", _NOW, "NaN", "1", "buy", "limit"),
    (2, "POISON/USD", _NOW, "Infinity", "1", "buy", "limit"),
    (3, "POISON/USD", _NOW, "1e500", "1e500", "buy", "limit"),
    (4, "POISON/USD", _NOW, "1e-500", "1", "buy", "limit"),
    (5, "POISON/USD", _NOW, "-1", "0", "buy", "limit"),
    (2**63, "POISON/USD", _NOW, "1", "1", "buy", "limit"),
    (2**63 - 1, "POISON/USD", _NOW, "1", "1", "buy", "limit"),
    (-1, "POISON/USD", _NOW, "1", "1", "buy", "limit"),
    (6, "POISON/USD", "0001-01-01T00:00:00Z", "1", "1", "buy", "limit"),
    (7, "POISON/USD", "2262-04-11T23:47:16Z", "1", "1", "buy", "limit"),
    (8, "POISON/USD", _NOW, "1" * 100_000, "1", "buy", "limit"),
    (9, "not a symbol", _NOW, "1", "1", "buy", "limit"),
    (10, "POISON/USD", _NOW, "1", "1", "neither", "limit"),
    (11, "POISON/USD", _NOW, "1", "1", "buy", "l" * 1_000_000),
    (12, "POISON/USD\x00", _NOW, "1", "1", "buy", "\x00"),
    (),
)


def _entry(*rows: object) -> dict[Any, Any]:
    return {wire.VERSION_FIELD: wire.FORMAT_VERSION, wire.DATA_FIELD: msgspec.msgpack.encode(list(rows))}


async def _add(system: System, *entries: dict[Any, Any]) -> None:
    async with system.redis_client() as redis:
        for fields in entries:
            for stream in (wire.trades_stream(0), wire.candles_stream(0)):
                await redis.xadd(stream, fields)


@scenario("poison-entries", "Garbage, unknown versions, absurd numbers, ids and times come into the streams.",
          short=True, flavours=BOTH)  # fmt: skip
async def _(system: System) -> None:
    version, data = wire.VERSION_FIELD, wire.DATA_FIELD
    noise = system.random.randbytes(300)
    await _add(
        system,
        {b"x": b"y"},
        {version: wire.FORMAT_VERSION},
        {version: b"99", data: noise},
        {version: b"", data: b""},
        {version: wire.FORMAT_VERSION, data: b""},
        {version: wire.FORMAT_VERSION, data: noise},
        {version: wire.FORMAT_VERSION, data: b"\x91" * 100_000},  # lists in lists
        {version: wire.FORMAT_VERSION, data: b"\xdd\xff\xff\xff\xff"},  # a list of four billion, cut
        {version: wire.FORMAT_VERSION, data: msgspec.msgpack.encode([]), wire.REFUSED_FIELD: noise},
        *(_entry(row) for row in _POISON),
        _entry(*_POISON),
    )
    await system.until_stored(300)


@scenario("poison-50-mb", "Entries of 50 MB come into the streams: noise, and rows that are nearly trades.")
async def _(system: System) -> None:
    await _add(system, {wire.VERSION_FIELD: wire.FORMAT_VERSION, wire.DATA_FIELD: os.urandom(50_000_000)})
    row = msgspec.Raw(msgspec.msgpack.encode((1, "POISON/USD", _NOW, "0", "1", "buy", "limit" * 20)))
    count = 50_000_000 // len(row)
    await _add(system, _entry(*[row] * count))
    await system.until_stored(300, within_s=90)


@scenario("poison-id-leaps", "A well-formed trade with the id 2^62 comes into the stream.")
async def _(system: System) -> None:
    trade = HistoricalTrade(
        2**62, SYMBOLS[0], datetime.now(UTC).replace(microsecond=0), Decimal(100_000), Decimal(1), "buy", "limit"
    )
    async with system.redis_client() as redis:
        await publish(redis, [trade])
    await system.until_stored(300)


@scenario("poison-known-ids", "Trades with known ids, and other prices and times, come into the stream.")
async def _(system: System) -> None:
    trades = []
    for symbol in SYMBOLS:
        first = (await system.kraken.trades(symbol, 0))[:20]
        trades += [
            HistoricalTrade(
                row["id"], symbol, datetime.now(UTC).replace(microsecond=0), Decimal(7), Decimal(7), "sell", "limit"
            )
            for row in first
        ]
    async with system.redis_client() as redis:
        await publish(redis, *[[trade] for trade in trades])
    await system.until_stored(300)


@scenario("older-stream-format", "A producer of an older version wrote the last entries: nobody can read them.")
async def _(system: System) -> None:
    system.kill("producer")
    await system.until_traded(300)
    entries: list[wire.Fields] = []
    for symbol in SYMBOLS:
        newest = (await system.kraken.trades(symbol, 0))[-100:]
        rows = [[row["id"], symbol, row["time_ns"], row["price"], row["volume"], row["side"]] for row in newest]
        entries.append({wire.VERSION_FIELD: b"0", wire.DATA_FIELD: msgspec.msgpack.encode(rows)})
    async with system.redis_client() as redis:
        for fields in entries:
            await redis.xadd(wire.trades_stream(0), fields)
    system.start("producer")


@scenario("clock-of-the-producer-ahead", "The producer's clock is an hour ahead; ids are missing.",
          clocks={"producer": 3600})  # fmt: skip
async def _(system: System) -> None:
    await system.make_hole()


@scenario("clock-of-the-consumer-ahead", "The consumer's clock is an hour ahead; ids are missing.",
          clocks={"consumer": 3600}, short=False)  # fmt: skip
async def _(system: System) -> None:
    await system.make_hole()


@scenario("clock-of-the-consumer-behind", "The consumer's clock is an hour behind; ids are missing.",
          clocks={"consumer": -3600})  # fmt: skip
async def _(system: System) -> None:
    await system.make_hole()


@scenario("clock-of-the-worker-ahead", "The worker's clock is an hour ahead; ids are missing.",
          clocks={"worker": 3600})  # fmt: skip
async def _(system: System) -> None:
    await system.make_hole()


@scenario("clock-of-the-worker-behind", "The worker's clock is an hour behind; ids are missing.",
          clocks={"worker": -3600})  # fmt: skip
async def _(system: System) -> None:
    await system.make_hole()


@scenario(
    "clocks-all-behind", "All clocks but Kraken's are an hour behind, and the last trades are lost in Redis.",
    clocks={"producer": -3600, "consumer": -3600, "worker": -3600},
    bound_s=20.0, why="a lost tail is noticed within 10 s, by two comparisons with the producer's sign of life",
)  # fmt: skip
async def _(system: System) -> None:
    await system.make_hole()
    system.kill("consumer")
    await system.until_traded(200)
    await system.kraken.stop()
    system.stays_stopped = True
    await asyncio.sleep(0.5)  # until the last trades are published
    async with system.redis_client() as redis:
        await redis.flushall()
    system.start("consumer")


@scenario("upkeep-migrations", "`migrate` runs twice, three at once, while everything writes.", flavours=BOTH)
async def _(system: System) -> None:
    for _ in range(2):
        await asyncio.gather(*(_run(system, "migrate") for _ in range(3)))


@scenario("upkeep-refreshes", "The longer intervals are refreshed without a pause while everything writes.",
          flavours=BOTH)  # fmt: skip
async def _(system: System) -> None:
    async with asyncpg.create_pool(system.database.url(system.database_name), min_size=1, max_size=2) as pool:
        give_up = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < give_up:
            try:
                await refresh(pool)
            except RefreshIsRunning:
                await asyncio.sleep(0.1)


@scenario("upkeep-backup", "Two backups are written while everything writes.", flavours=BOTH)
async def _(system: System) -> None:
    for number in range(2):
        target = system.folder / f"backup-{number}.dump"
        await _run(system, "backup", str(target))
        if not target.stat().st_size:
            system.complaints.append("the backup is empty")


@scenario("upkeep-compression", "The chunks of today are compressed while everything writes into them.",
          flavours=("timescaledb",))  # fmt: skip
async def _(system: System) -> None:
    for _ in range(4):
        await system.pause(0.5, 2)
        connection = await system.connect()
        try:
            for table in ("trades", "candles"):
                await connection.execute(
                    "SELECT compress_chunk(c, if_not_compressed => true) FROM show_chunks($1::regclass) c", table
                )
        except (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
            pass
        finally:
            await connection.close()
    await system.until_stored(300)


@scenario("upkeep-retention", "Retention drops two months of an old pair while everything writes.", flavours=BOTH)
async def _(system: System) -> None:
    start = datetime(2020, 1, 1, 12, tzinfo=UTC)
    days = 60
    old = [
        HistoricalTrade(1 + day, "OLD/USD", start + timedelta(days=day), Decimal("1.5"), Decimal(2), "buy", "limit")
        for day in range(days)
    ]
    async with system.redis_client() as redis:
        await publish(redis, old)
    await system.until_stored(days + 100)
    cutoffs = dict.fromkeys(("trades", "candles"), datetime(2023, 1, 1, tzinfo=UTC))
    async with asyncpg.create_pool(system.database.url(system.database_name), min_size=1, max_size=2) as pool:
        for _ in range(50):
            try:
                await drop_old(pool, cutoffs)
            except RefreshIsRunning:
                await asyncio.sleep(0.1)
            else:
                break
    left = (await system.fetch("SELECT count(*) FROM trades WHERE symbol = 'OLD/USD'"))[0][0]
    if left:
        system.complaints.append(f"retention left {left} old trades")


@scenario("soak", "High rate for FAULTS_SOAK_S (60 s), with a kill of some process every few seconds.",
          rate=1_000.0, consumers=2, flavours=BOTH, bound_s=45.0,
          why="entries of a lost consumer are taken over after RECLAIM_AFTER_S (30 s)")  # fmt: skip
async def _(system: System) -> None:
    give_up = asyncio.get_running_loop().time() + float(os.environ.get("FAULTS_SOAK_S", "60"))
    while asyncio.get_running_loop().time() < give_up:
        await system.pause(2, 8)
        name = system.random.choice(list(system.services))
        system.kill(name)
        await system.pause(0, 1)
        system.start(name)


async def _run(system: System, *words: str) -> None:
    """Run the command; complain if it fails."""
    environment = {
        **os.environ,
        "DATABASE_URL": system.database.url(system.database_name),
        "REDIS_URL": system.redis.url(),
        "KRAKEN_HISTORY_ENV_FILE": "",
        "KRAKEN_HISTORY_CONFIG": "",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kraken_history", *words, cwd=REPOSITORY, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    if process.returncode:
        system.complaints.append(f"{words[0]} ended with {process.returncode}: {out.decode()[-200:]}")
