"""A PostgreSQL that is stopped, frozen, full, locked, read-only, or moved."""

import asyncio
import os
import secrets
import signal
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg

from kraken_history.embedded.accounts import as_account, server_account
from kraken_history.embedded.postgres import SUPERUSER
from kraken_history.records import HistoricalTrade
from tests.faults.line import Line
from tests.faults.scenario import BOTH, scenario
from tests.faults.servers import Database, NotHereError
from tests.faults.system import System, until_true
from tests.support.streams import publish

_COPYING = b"COPY "


@scenario("database-stopped-at-once", "PostgreSQL ends at once, without a checkpoint, and starts again.", short=True)
async def _(system: System) -> None:
    await system.pause(0, 2)
    await _end_at_once(system.database)
    await system.pause(1, 3)
    await system.database.start()


@scenario("database-killed-often", "All processes of PostgreSQL are killed four times.", flavours=BOTH)
async def _(system: System) -> None:
    for _ in range(4):
        await system.pause(0.2, 3)
        await system.database.kill()
        await system.database.start()


@scenario("database-restarted", "PostgreSQL is restarted as for an update, twice.", flavours=BOTH)
async def _(system: System) -> None:
    for _ in range(2):
        await system.pause(0, 2)
        await system.database.stop()
        await system.database.start()


@scenario("database-killed-in-copy", "PostgreSQL is killed in the middle of a COPY.", flavours=BOTH)
async def _(system: System) -> None:
    await system.line("consumer", "database").freeze("after", _COPYING, "to server").wait()
    await system.database.kill()
    await system.line("consumer", "database").restore()
    await system.database.start()


@scenario("database-killed-after-commit", "PostgreSQL is killed after a COMMIT whose answer nobody got.")
async def _(system: System) -> None:
    await system.line("consumer", "database").freeze("before", b"COMMIT\x00", "to client").wait()
    await system.database.kill()
    await system.line("consumer", "database").reset()
    await system.database.start()


@scenario(
    "database-silent-in-transaction", "The consumer's connection goes silent in the middle of a transaction, for ever.",
    flavours=BOTH,
)  # fmt: skip
async def _(system: System) -> None:
    line = system.line("consumer", "database")
    await line.freeze("before", _COPYING, "to server").wait()
    line.hang_what_is_open()
    await system.until_stored(500, within_s=60)


@scenario(
    "database-silent-in-copy", "The consumer's connection goes silent in the middle of a COPY, for ever.",
)  # fmt: skip
async def _(system: System) -> None:
    line = system.line("consumer", "database")
    await line.freeze("after", _COPYING, "to server").wait()
    line.hang_what_is_open()
    await system.until_stored(500, within_s=30)


@scenario(
    "database-silent-in-the-worker", "The worker's connections go silent in the middle of a transaction, for ever.",
)  # fmt: skip
async def _(system: System) -> None:
    line = system.line("worker", "database")
    watch = line.freeze("before", _COPYING, "to server")
    await system.make_hole()
    await watch.wait()
    line.hang_what_is_open()
    await system.until_stored(500, within_s=60)


@scenario("database-session-ended", "The sessions of all services are terminated, ten times.")
async def _(system: System) -> None:
    for _ in range(10):
        await system.pause(0.1, 1.5)
        await _terminate_sessions(system)


@scenario("database-out-of-connections", "All sessions are ended, and others take every connection for 10 s.",
          database_settings={"max_connections": "40"}, flavours=BOTH)  # fmt: skip
async def _(system: System) -> None:
    taken: list[asyncpg.Connection] = []
    try:
        await _terminate_sessions(system)
        give_up = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < give_up:
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    taken.append(await asyncpg.connect(system.database.url("postgres"), timeout=5))
            await asyncio.sleep(0.05)
    finally:
        await asyncio.gather(*(connection.close(timeout=5) for connection in taken), return_exceptions=True)


@scenario("database-trades-locked", "Somebody locks the table of trades for 10 s.", flavours=BOTH)
async def _(system: System) -> None:
    await _hold(system, "LOCK TABLE trades IN ACCESS EXCLUSIVE MODE", 10)


@scenario("database-trades-locked-70s", "Somebody locks the table of trades for 70 s, longer than WRITE_TIMEOUT_S.")
async def _(system: System) -> None:
    await _hold(system, "LOCK TABLE trades IN ACCESS EXCLUSIVE MODE", 70)


@scenario("database-ledger-locked", "Somebody locks the rows of the ledger for 10 s.")
async def _(system: System) -> None:
    await _hold(system, "SELECT 1 FROM sync_keys FOR UPDATE", 10)


@scenario("database-long-snapshot", "A session keeps a snapshot for 30 s, as pg_dump does.")
async def _(system: System) -> None:
    connection = await system.connect()
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.fetchval("SELECT count(*) FROM data_sync_status")
    await asyncio.sleep(30)
    await connection.execute("COMMIT")
    await connection.close()


@scenario("database-read-only", "The database is read-only for 10 s.", flavours=BOTH)
async def _(system: System) -> None:
    await system.pause(0, 2)
    await system.database.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        await asyncio.sleep(10)
    finally:
        await system.database.execute(
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )


@scenario("database-disk-full", "The disk fills up for 10 s, and is freed.", flavours=BOTH, disk_mb=600, rate=300.0)
async def _(system: System) -> None:
    disk = system.database.folder
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free)
    await asyncio.sleep(10)
    ballast.unlink()
    await _start_again(system.database)


@scenario("database-notify-queue-full", "A reader sits in a transaction after LISTEN until the queue is full.",
          rate=600.0, database_settings={"max_notify_queue_pages": "64"})  # fmt: skip
async def _(system: System) -> None:
    connection = await system.connect()
    await connection.execute("LISTEN anything")
    await connection.execute("BEGIN")
    await connection.fetchval("SELECT 1")
    await _fill_notify_queue(system)
    await system.pause(5, 8)
    await connection.execute("COMMIT")
    await connection.close()


@scenario("database-too-many-locks", "One batch has trades of 4,000 days, and max_locks_per_transaction is 64.",
          flavours=BOTH, database_settings={"max_locks_per_transaction": "64"},
          bound_s=300.0, why="4,000 days of partitions are created, at about 40 ms each")  # fmt: skip
async def _(system: System) -> None:
    start = datetime(2014, 1, 1, 12, tzinfo=UTC)
    days = 4_000
    entries = [
        [
            HistoricalTrade(
                1 + day, "THIN/USD", start + timedelta(days=day), Decimal("1.5"), Decimal(2), "buy", "limit"
            )
            for day in range(first, first + 200)
        ]
        for first in range(0, days, 200)
    ]
    async with system.redis_client() as redis:
        await publish(redis, *entries)

    async def are_stored() -> bool:
        (row,) = await system.fetch("SELECT count(*) FROM trades WHERE symbol = 'THIN/USD'")
        return int(row[0]) == days

    await system.until_stored(500, within_s=60)
    await until_true(are_stored, "the thin pair is stored", 280)


@scenario(
    "database-failed-over", "A standby that lags by seconds is promoted; its primary is gone, and so is the rest."
)
async def _(system: System) -> None:
    primary = system.database
    async with Line(primary.port) as between:
        standby = await _standby(system, between.port)
        await system.until_stored(300)
        await _caught_up(system, standby)
        await between.cut()
        await system.until_stored(500)  # which the standby never gets
        await primary.kill()
        await standby.execute("SELECT pg_promote()")
    system.database = standby
    for line in system.lines_to("database"):
        line.server_port = standby.port
        await line.reset()
    system.at_end(primary.start)


@scenario("database-behind-pgbouncer", "PgBouncer is in between, in transaction mode; consumer and server are killed.",
          pool_mode="transaction", flavours=BOTH)  # fmt: skip
async def _(system: System) -> None:
    await system.pause(0, 1)
    system.kill("consumer")
    system.start("consumer")
    await system.until_stored(200)
    await system.database.kill()
    await system.database.start()
    await system.until_stored(200)
    await _terminate_sessions(system)


def _frozen(seconds: int) -> None:
    @scenario(f"database-frozen-{seconds}s", f"All processes of PostgreSQL are stopped for {seconds} s and go on.")
    async def _(system: System) -> None:
        await system.pause(0, 2)
        system.database.freeze()
        await asyncio.sleep(seconds)
        system.database.thaw()


for _seconds in (5, 20, 60):
    _frozen(_seconds)


async def _end_at_once(database: Database) -> None:
    pid = database.server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    await until_true(lambda: database.server.pid() is None, "PostgreSQL has ended", 20)


async def _start_again(database: Database) -> None:
    """Start a server that may have ended because its disk was full, as a supervisor does."""
    await database.start()


async def _terminate_sessions(system: System) -> None:
    await system.database.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{system.database_name}'"  # noqa: S608
    )


async def _hold(system: System, statement: str, seconds: float) -> None:
    await system.pause(0, 2)
    connection = await system.connect()
    try:
        await connection.execute("BEGIN")
        await connection.execute(statement)
        await asyncio.sleep(seconds)
    finally:
        connection.terminate()


async def _fill_notify_queue(system: System) -> None:
    connection = await system.connect()
    with suppress(asyncpg.PostgresError):
        for number in range(100_000):
            await connection.execute(f"NOTIFY anything, '{number}{'x' * 7_000}'")
    await connection.close()


async def _standby(system: System, port: int) -> Database:
    """A standby of the scenario's database, which follows its primary through this port."""
    primary = system.database
    folder = primary.folder.with_name(f"standby-{secrets.token_hex(4)}")
    standby = Database(primary.flavour, folder, password=primary.password)
    await asyncio.to_thread(_copy_cluster, primary, standby, port)
    system.at_end(standby.kill)
    await standby.start()
    return standby


def _copy_cluster(primary: Database, standby: Database, port: int) -> None:
    program = primary.server.bin_dir / "pg_basebackup"
    if not program.exists():
        raise NotHereError(f"{primary.server.bin_dir} has no pg_basebackup")
    account = server_account(primary.server.data)
    standby.folder.mkdir()
    if account is not None:
        os.chown(standby.folder, account.uid, account.gid)
    source = f"host=127.0.0.1 port={port} user={SUPERUSER} password={primary.password}"
    arguments = ["-D", str(standby.server.data), "-d", source, "-R", "-X", "stream", "-c", "fast"]
    argv = as_account([str(program), *arguments], account, reaching=[primary.folder])
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


async def _caught_up(system: System, standby: Database) -> None:
    async def has() -> bool:
        target = (await system.fetch("SELECT pg_current_wal_lsn()::text"))[0][0]
        connection = await asyncpg.connect(standby.url("postgres"), timeout=5)
        try:
            return bool(await connection.fetchval(f"SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn"))
        finally:
            await connection.close()

    await until_true(has, "the standby has caught up", 30)
