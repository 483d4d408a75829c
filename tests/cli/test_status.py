"""``status``, ``env`` and ``health``."""

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from kraken_history.cli.symbol_state import FeedState, feed_state
from kraken_history.runtime import liveness
from kraken_history.runtime.signs import ProducerSign, Sign, Signs, encode_sign
from kraken_history.storing.retention import drop_old
from kraken_history.stream import wire
from tests.cli.samples import START, import_days, store, trade
from tests.support.command import Run
from tests.support.servers import Background
from tests.support.signs import CONSUMER, PRODUCER, WORKER, sign


async def leave(redis_url: str, name: str, of: Sign) -> None:
    await write(redis_url, f"{of.service}:{name}", encode_sign(of))


async def write(redis_url: str, name: str, body: bytes) -> None:
    async with Redis.from_url(redis_url) as redis:
        await redis.set(liveness.HEALTH_PREFIX + name, body, ex=15)


async def publish(redis_url: str, *, entries: int, read: int) -> None:
    stream = wire.trades_stream(0)
    async with Redis.from_url(redis_url) as redis:
        for n in range(entries):
            await redis.xadd(stream, wire.encode([trade(n)]))
        await redis.xgroup_create(stream, wire.STORE_GROUP, id="0")
        await redis.xreadgroup(wire.STORE_GROUP, "reader", {stream: ">"}, count=read)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_status_of_empty_servers(migrated_database_url: str, redis_url: str, command: Run) -> None:
    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    told = json.loads(command("status", "--json").out)

    assert table.code == 0
    assert table.out.splitlines()[-1] == "dead letters: 0"
    assert [line.split() for line in table.out.splitlines() if "not running" in line] == [
        [service, "not", "running"] for service in ("producer", "consumer", "worker")
    ]
    assert table.err.startswith("nothing is stored yet")
    assert told["not_running"] == ["producer", "consumer", "worker"]
    assert (told["symbols"], told["streams"], told["services"], told["dead_letters"]) == ({}, [], {}, 0)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_status_tells_what_is_stored_and_what_is_missing(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    background.run(store(migrated_database_url, [trade(10), trade(11, 60), trade(15, 120)]))
    background.run(publish(redis_url, entries=5, read=2))
    background.run(leave(redis_url, "a", CONSUMER))
    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    told = json.loads(command("status", "--json").out)
    symbol = told["symbols"]["BTC/USDT"]

    assert table.code == 0
    assert "BTC/USDT" in table.out
    assert "consumer:a" in table.out
    assert {key: symbol[key] for key in ("trades", "missing", "holes", "candles", "oldest", "newest")} == {
        "trades": 3,
        "missing": 3,
        "holes": 1,
        "candles": 3,
        "oldest": "2026-01-05T10:00:00Z",
        "newest": "2026-01-05T10:02:00Z",
    }
    assert symbol["uncovered_s"] == 30 * 86_400  # what HISTORY_DAYS wants lies after all of it
    assert "30 days" in table.out
    assert symbol["lag_s"] > 0
    assert told["streams"] == [
        {"stream": "kraken:trades:{0}", "group": "store", "length": 5, "lag": 3, "pending": 2},
    ]
    assert told["services"].keys() == {"consumer:a"}
    assert told["services"]["consumer:a"].items() >= {"pid": 8, "at": "2026-01-05T10:00:00Z", "healthy": True}.items()


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_a_sign_of_another_version_is_a_row_and_proves_nothing(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    now = datetime.now(UTC)
    background.run(store(migrated_database_url, [trade(1, (now - START).total_seconds() - 86_400)]))
    background.run(leave(redis_url, "a", sign(WORKER, symbols=("BTC/USDT",), history_days=1)))
    newer = encode_sign(sign(PRODUCER, last_ids={"BTC/USDT": 1})).replace(b'"version":1', b'"version":2')
    background.run(write(redis_url, "producer:b", newer))
    background.run(write(redis_url, "consumer:c", b"{"))
    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    told = json.loads(command("status", "--json").out)

    assert table.code == 0
    assert "unreadable, written by another version: expected version 1, got 2" in " ".join(table.out.split())
    assert told["services"]["producer:b"] == {
        "unreadable": "unreadable, written by another version: expected version 1, got 2",
        "pid": 7,
        "healthy": False,
    }
    assert told["services"]["consumer:c"]["unreadable"].startswith("unreadable: expected a JSON object")
    assert told["symbols"]["BTC/USDT"]["uncovered_s"] == pytest.approx(86_400, abs=5)
    assert command("health", "producer").err.startswith("producer:b is running but unhealthy: unreadable, written by")


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_status_tells_what_the_worker_is_still_to_ask_for(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    """A user read "0 missing" where the last month had never been fetched: only holes in the ids were counted."""
    now = datetime.now(UTC)
    held = [trade(n, (now - START).total_seconds() - 86_400 * (2 - n)) for n in (0, 1)]  # two days ago, and one
    background.run(store(migrated_database_url, held))
    background.run(leave(redis_url, "a", sign(WORKER, symbols=("BTC/USDT", "NEW/USD"), history_days=7)))

    def told() -> dict[str, float]:
        symbols = json.loads(command("status", "--json").out)["symbols"]
        assert symbols["BTC/USDT"]["missing"] == 0
        return {name: symbol["uncovered_s"] / 86_400 for name, symbol in symbols.items()}

    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    assert "missing ids" in table.out
    assert "uncovered" in table.out
    assert [line.count("7 days") for line in table.out.splitlines() if "NEW/USD" in line] == [0, 1]
    assert [line.count("6 days") for line in table.out.splitlines() if "BTC/USDT" in line] == [0, 1]
    assert told() == pytest.approx({"BTC/USDT": 6.0, "NEW/USD": 7.0}, abs=0.01)

    background.run(leave(redis_url, "a", sign(PRODUCER, last_ids={"BTC/USDT": 1})))
    assert told() == pytest.approx({"BTC/USDT": 5.0, "NEW/USD": 7.0}, abs=0.01)  # the feed knows of no newer trade


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_of_a_symbol_that_is_not_wanted_nothing_is_still_to_come(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    background.run(store(migrated_database_url, [trade(1, symbol="OLD/USD")]))
    outcome = command("status", "--json", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)

    assert json.loads(outcome.out)["symbols"].keys() == {"OLD/USD"}
    assert json.loads(outcome.out)["symbols"]["OLD/USD"]["uncovered_s"] is None


def test_the_time_between_an_import_and_the_trades_is_missing(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    """Ten days of January 2024 by CSV and trades from January 2026 on were once "missing 0"."""
    january = datetime(2024, 1, 1, tzinfo=UTC)
    background.run(import_days(migrated_database_url, january, 10))
    background.run(store(migrated_database_url, [trade(1), trade(2, 60), trade(10, 120)]))
    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    told = json.loads(command("status", "--json").out)
    symbol = told["symbols"]["BTC/USDT"]

    assert symbol["missing_s"] == (START - january).total_seconds() - 10 * 86_400 + 60  # and up to the newest trade
    assert (symbol["candles_since"], symbol["trades_since"]) == ("2024-01-01T00:00:00Z", "2026-01-05T10:00:00Z")
    assert (symbol["missing"], symbol["holes"]) == (7, 1)  # ids, and ranges of ids: kraken_missing_ids says 7
    assert "725 d 10 h" in table.out
    assert told["size_bytes"]["database"] > told["size_bytes"]["candles"] > 0
    assert told["size_bytes"]["trades"] > 0


def test_what_retention_dropped_is_told_and_not_counted(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    background.run(store(migrated_database_url, [trade(n, n * 86_400) for n in range(20)]))
    cutoff = START + timedelta(days=10, hours=14)
    background.run(drop(migrated_database_url, cutoff))
    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    told = json.loads(command("status", "--json").out)
    symbol = told["symbols"]["BTC/USDT"]

    assert symbol["trades"] == 9
    assert (symbol["oldest"], symbol["trades_since"]) == ("2026-01-05T10:00:00Z", "2026-01-16T00:00:00Z")
    assert told["dropped"]["trades"][-1]["end"] == "2026-01-16T00:00:00Z"
    assert "retention dropped trades before 2026-01-16\n" in table.out


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_a_quiet_pair_is_no_alarm_and_a_refused_one_is_shown(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    """A pair whose feed was fine, and that nobody had traded for a week, had a "lag of 634,117 s"."""
    now = datetime.now(UTC)
    ages = {"BTC/USDT": 5, "XRP/BTC": 634_117, "SOL/USDT": 30}
    for symbol, age_s in ages.items():
        background.run(store(migrated_database_url, [trade(7, (now - START).total_seconds() - age_s, symbol=symbol)]))
    background.run(leave(redis_url, "a", sign(WORKER, symbols=(*ages, "FOO/BAR"), history_days=1)))
    background.run(
        leave(
            redis_url,
            "a",
            sign(
                PRODUCER,
                last_ids={"BTC/USDT": 7, "XRP/BTC": 7, "SOL/USDT": 9},
                refused={"FOO/BAR": "Currency pair not supported"},
            ),
        )
    )
    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    symbols = json.loads(command("status", "--json").out)["symbols"]

    assert {name: symbol["state"] for name, symbol in symbols.items()} == {
        "BTC/USDT": "live",
        "FOO/BAR": "refused",
        "SOL/USDT": "behind",
        "XRP/BTC": "quiet",
    }
    assert symbols["FOO/BAR"]["reason"] == "Currency pair not supported"
    assert symbols["XRP/BTC"]["quiet_since"] == symbols["XRP/BTC"]["newest"]
    assert symbols["SOL/USDT"]["behind"] == 2
    assert f"quiet since {now - timedelta(seconds=ages['XRP/BTC']):%Y-%m-%d %H:%M}Z" in table.out
    assert "refused: Currency pair not supported" in table.out
    assert "634,1" not in table.out


def test_the_state_of_a_feed_follows_from_the_signs_of_life() -> None:
    now = START + timedelta(hours=1)

    def state(*producers: ProducerSign, is_wanted: bool = True) -> FeedState:
        signs = Signs({f"producer:{n}": producer for n, producer in enumerate(producers)})
        return feed_state("BTC/USDT", 7, START, signs=signs, is_wanted=is_wanted, now=now)

    lost = sign(PRODUCER, healthy=False, trouble={"kraken": "connecting"}, last_ids={"BTC/USDT": 7})

    assert state() == FeedState("disconnected", "no producer is running")
    assert state(is_wanted=False) == FeedState("not followed")
    assert state(lost) == FeedState("disconnected", "kraken: connecting")
    assert state(PRODUCER) == FeedState("waiting", "no trade received yet")
    assert state(lost, sign(PRODUCER, last_ids={"BTC/USDT": 7})) == FeedState("quiet", quiet_since=START)
    assert state(sign(PRODUCER, refused={"BTC/USDT": "gone"}, last_ids={"BTC/USDT": 7})) == FeedState("refused", "gone")


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_watching_shows_each_status_until_ctrl_c(
    migrated_database_url: str, redis_url: str, background: Background
) -> None:
    background.run(store(migrated_database_url, [trade(1), trade(2, 60)]))
    process = subprocess.Popen(
        [sys.executable, "-m", "kraken_history", "status", "--watch", "--every", "0.5", "--json"],
        env={**os.environ, "DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    background.run(store(migrated_database_url, [trade(3, 90)]))
    later = next(told for line in process.stdout if (told := json.loads(line))["symbols"]["BTC/USDT"]["trades"] == 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert first["at"] < second["at"] < later["at"]
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_on_a_terminal_of_80_columns_watching_redraws_in_place(
    migrated_database_url: str, redis_url: str, background: Background
) -> None:
    background.run(store(migrated_database_url, [trade(n, n, symbol="BTC/USDT") for n in range(1, 1_500)]))
    background.run(leave(redis_url, "a", sign(PRODUCER, refused={"FOO/BAR": "Currency pair not supported FOO/BAR"})))
    shown = watched(migrated_database_url, redis_url)

    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in shown.replace("\x1b[H", "\n").splitlines()]
    assert "\x1b[?1049h" in shown  # the second screen, which is given back at the end
    assert "\x1b[?1049l" in shown
    assert shown.count("completeness and feed") >= 2
    assert "\x1b[2J" not in shown.partition("\x1b[?1049h")[2]  # nothing is erased first, so nothing flickers
    assert max(len(line) for line in lines) <= 80


def watched(database_url: str, redis_url: str) -> str:
    """What two rounds of watching write on a terminal of 80 columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "kraken_history", "status", "--watch", "--every", "0.5"],
        env={**environment, "DATABASE_URL": database_url, "REDIS_URL": redis_url, "TERM": "xterm-256color"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while shown.count(b"completeness and feed") < 2:
        shown += os.read(leader, 65_536)
    process.send_signal(signal.SIGINT)
    try:
        while part := os.read(leader, 65_536):
            shown += part
    except OSError:  # the other end is closed
        pass
    process.wait(timeout=30)
    os.close(leader)
    return shown.decode(errors="replace")  # Ctrl-C may cut a character


async def drop(database_url: str, cutoff: datetime) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await drop_old(pool, {"trades": cutoff}, now=START + timedelta(days=60))


def test_a_service_is_healthy_if_one_instance_says_so(redis_url: str, background: Background, command: Run) -> None:
    background.run(leave(redis_url, "a", sign(CONSUMER, healthy=False, trouble={"database": "it is gone"})))
    unwell = command("health", "consumer", REDIS_URL=redis_url)
    background.run(leave(redis_url, "b", CONSUMER))

    assert (unwell.code, unwell.out) == (1, "")
    assert unwell.err == "consumer:a is running but unhealthy: database: it is gone\n"
    assert command("health", "consumer").code == 0
    assert command("health", "consumer", "--name", "a").code == 1
    assert command("health", "consumer", "--name", "b").code == 0
    assert command("health", "worker").err == "no sign of life of worker in the last 15 s\n"


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_streams_that_nobody_reads_are_shown(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    """A producer with 4 shards and a consumer with 1 lost everything, and `health` said nothing."""

    async def publish_elsewhere() -> None:
        async with Redis.from_url(redis_url) as redis:
            await redis.set("kraken:shards", 1)
            await redis.xadd(wire.trades_stream(3), wire.encode([trade(1)]))

    background.run(leave(redis_url, "a", CONSUMER))
    before = command("health", "consumer", REDIS_URL=redis_url)
    background.run(publish_elsewhere())
    health = command("health", "consumer")
    table = command("status", DATABASE_URL=migrated_database_url)
    told = json.loads(command("status", "--json").out)

    words = "nobody reads kraken:trades:{3}, in which 1 entries wait: the consumers read 1 shard(s)."
    assert (before.code, health.code) == (0, 1)
    assert health.err.startswith(words)
    assert words in table.out
    assert (told["shards"], told["read_by_nobody"]) == (1, ["kraken:trades:{3}"])


def test_a_job_that_runs_for_long_is_told_by_health_and_status(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    background.run(leave(redis_url, "a", sign(WORKER, jobs={"heal:BTC/USDT:5:9:": 1_020})))
    healthy = command("health", "worker", REDIS_URL=redis_url, DATABASE_URL=migrated_database_url)

    assert (healthy.code, healthy.err) == (0, "worker:a: heal:BTC/USDT:5:9: has run for 17 min\n")
    assert "well; heal:BTC/USDT:5:9: has run for 17 min" in command("status").out


def test_a_clock_that_is_off_is_told_by_health_and_status(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    # Nothing said so: status only showed two hours that were not fetched yet.
    background.run(leave(redis_url, "a", sign(CONSUMER, clock_ahead_s={"redis": 3_600.4})))
    healthy = command("health", "consumer", REDIS_URL=redis_url, DATABASE_URL=migrated_database_url)
    hint = "the machine's clock is 60 min ahead of Redis': synchronise both, for example with chrony"

    assert (healthy.code, healthy.err) == (0, f"consumer:a: {hint}\n")
    assert f"well; {hint}" in command("status").out
    told = json.loads(command("status", "--json").out)
    assert told["services"]["consumer:a"]["clock_ahead_s"] == {"redis": 3_600.4}
    assert abs(told["clock_ahead_s"]["redis"]) < 2


def test_env_gives_what_is_set_quoted_for_the_shell(command: Run) -> None:
    outcome = command("env", DATABASE_URL="postgresql://me:a'b&c@h/x", REDIS_URL="redis://h/0")

    assert (outcome.code, outcome.err) == (0, "")
    assert shlex.split(outcome.out) == ["DATABASE_URL=postgresql://me:a'b&c@h/x", "REDIS_URL=redis://h/0"]


def test_env_prepares_a_data_directory_and_starts_nothing(tmp_path: Path, command: Run) -> None:
    outcome = command("env")
    again = command("env")

    assert outcome.code == 0
    database_url, redis_url = shlex.split(outcome.out)  # quoted for the shell
    assert database_url.startswith("DATABASE_URL=postgresql://kraken:")
    assert database_url.endswith("?sslmode=disable")
    assert redis_url.startswith("REDIS_URL=redis://:")
    assert "not running" in outcome.err
    assert again.out == outcome.out
    assert not (tmp_path / "data/postgres/postmaster.pid").exists()


def test_on_a_new_data_directory_status_says_that_nothing_is_stored(tmp_path: Path, command: Run) -> None:
    outcome = command("status")

    assert outcome.code == 0
    assert outcome.out.endswith("dead letters: 0\n")
    assert outcome.err.startswith("nothing is stored yet")
    assert not (tmp_path / "data/postgres/postmaster.pid").exists()


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
def test_status_shows_a_background_job_that_fails(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    """Compression had never run on a server whose every background job fails, and nothing said so."""

    async def fail() -> int:
        connection = await asyncpg.connect(migrated_database_url)
        try:
            job = await connection.fetchval(
                "SELECT job_id FROM timescaledb_information.jobs"
                " WHERE proc_name = 'policy_compression' AND hypertable_name = 'trades'"
            )
            await connection.execute("UPDATE _timescaledb_config.bgw_job SET scheduled = false")
            await connection.execute("DELETE FROM _timescaledb_internal.bgw_job_stat")
            await connection.execute(_FAILED_RUN, job)
        finally:
            await connection.close()
        return int(job)

    job = background.run(fail())
    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    (told,) = json.loads(command("status", "--json").out)["failing_jobs"]

    (line,) = [line for line in table.out.splitlines() if "background job" in line]
    assert line.startswith(
        f"background job {job} of TimescaleDB, policy_compression of trades, fails: its chunks stay uncompressed;"
        " never succeeded, 3 failed runs"
    )
    assert (told["job"], told["table"], told["last_success"], told["failures"]) == (job, "trades", None, 3)


_FAILED_RUN = """
    INSERT INTO _timescaledb_internal.bgw_job_stat (
        job_id, last_start, last_finish, next_start, last_successful_finish, last_run_success, total_runs,
        total_duration, total_duration_failures, total_successes, total_failures, total_crashes, consecutive_failures,
        consecutive_crashes, flags)
    VALUES ($1, now(), now(), now() + interval '1 day', '-infinity', false, 3, '0 s', '1 s', 0, 3, 0, 3, 0, 0)
"""
