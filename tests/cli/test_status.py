"""``status``, ``env`` and ``health``."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kraken_history.runtime import liveness
from kraken_history.runtime.signs import Sign, encode_sign
from kraken_history.stream import wire
from tests.cli.samples import START, store, trade
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

    assert (table.code, table.out) == (0, "dead letters: 0\n")
    assert table.err.startswith("nothing is stored yet")
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
    heads = table.out.split("BTC/USDT")[0]
    assert "missing" in heads
    assert "uncovered" in heads
    assert [line.count("7 days") for line in table.out.splitlines() if "NEW/USD" in line] == [1]
    assert [line.count("6 days") for line in table.out.splitlines() if "BTC/USDT" in line] == [1]
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


def test_env_gives_what_is_set_quoted_for_the_shell(command: Run) -> None:
    outcome = command("env", DATABASE_URL="postgresql://me:a'b&c@h/x", REDIS_URL="redis://h/0")

    assert (outcome.code, outcome.err) == (0, "")
    assert shlex.split(outcome.out) == ["DATABASE_URL=postgresql://me:a'b&c@h/x", "REDIS_URL=redis://h/0"]


def test_env_prepares_a_data_directory_and_starts_nothing(tmp_path: Path, command: Run) -> None:
    outcome = command("env")
    again = command("env")

    assert outcome.code == 0
    assert outcome.out.startswith("DATABASE_URL=postgresql://kraken:")
    assert "not running" in outcome.err
    assert again.out == outcome.out
    assert not (tmp_path / "data/postgres/postmaster.pid").exists()


def test_on_a_new_data_directory_status_says_that_nothing_is_stored(tmp_path: Path, command: Run) -> None:
    outcome = command("status")

    assert (outcome.code, outcome.out) == (0, "dead letters: 0\n")
    assert outcome.err.startswith("nothing is stored yet")
    assert not (tmp_path / "data/postgres/postmaster.pid").exists()
