"""``fill-gaps``, as somebody types it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from kraken_history.cli.worker_notice import NO_WORKER
from simulator import Simulator
from tests.gaps.conftest import SYMBOL
from tests.gaps.truth import true_ids
from tests.support.command import Run, clean_environment, command  # noqa: F401 — fixtures
from tests.support.kraken import scripted_kraken
from tests.support.servers import Background, DatabaseServer

WANTED = {"SYMBOLS": SYMBOL, "HISTORY_DAYS": "1", "REST_CALL_SPACING_S": "0.01", "REST_TOTAL_SPACING_S": "0.01"}


@pytest.fixture
def database_server(_postgresql_server: DatabaseServer) -> DatabaseServer:
    """One kind will do: this is about the command."""
    return _postgresql_server


@pytest.fixture
def served(background: Background) -> Iterator[Simulator]:
    """A Kraken by the real clock, beside the command's own event loop."""
    kraken = Simulator(symbols=[SYMBOL], emitting=False, history=2_600, history_hours=6, rest_burst=1_000_000)
    background.run(kraken.start())
    yield kraken
    background.run(kraken.stop())


def test_with_wait_it_fills_and_prints_the_summary(
    command: Run,  # noqa: F811
    migrated_database_url: str,
    redis_url: str,
    served: Simulator,
) -> None:
    tape = served.exchange.tapes[SYMBOL]
    minutes = {trade.time_ns // 60_000_000_000 for trade in tape.trades(0, len(tape))}
    servers = {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": served.rest_url}
    outcome = command("fill-gaps", "--wait", **servers, **WANTED)
    again = command("fill-gaps", "--wait", "--json", "--symbol", "btc/usdt")

    assert (outcome.code, again.code) == (0, 0)
    assert outcome.out.splitlines() == [
        "gaps_detected: 1",
        "gaps_filled: 1",
        f"candles_inserted: {len(minutes)}",
        f"trades_processed: {len(true_ids(served, SYMBOL))}",
        "errors: 0",
    ]
    assert json.loads(again.out) == {
        "gaps_detected": 0,
        "gaps_filled": 0,
        "candles_inserted": 0,
        "trades_processed": 0,
        "errors": [],
    }


def test_what_could_not_be_fetched_is_told_and_the_exit_code_is_1(
    command: Run,  # noqa: F811
    migrated_database_url: str,
    redis_url: str,
    background: Background,
) -> None:
    without_a_book = scripted_kraken('{"error":["EQuery:Unknown asset pair"]}')
    kraken = background.run(without_a_book.__aenter__())
    servers = {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": kraken.url}
    outcome = command("fill-gaps", "--wait", "--symbol", SYMBOL, **servers, **WANTED)
    background.run(without_a_book.__aexit__(None, None, None))

    assert outcome.code == 1
    assert "errors: 1\n" in outcome.out
    assert "Unknown asset pair" in outcome.err


@pytest.mark.parametrize("arguments", [["--wait"], []], ids=["here", "by the worker"])
@pytest.mark.parametrize("name", ["NO/SUCH", "BTCEUR"])
def test_a_pair_that_kraken_does_not_list_is_refused(
    command: Run,  # noqa: F811
    migrated_database_url: str,
    redis_url: str,
    served: Simulator,
    name: str,
    arguments: list[str],
) -> None:
    servers = {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": served.rest_url}
    outcome = command("fill-gaps", "--symbol", name, *arguments, **servers, **WANTED)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"kraken-history: unknown symbol {name!r}: Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT\n"
    )


@pytest.mark.parametrize("name", ["XBT/USDT", "XBTUSDT", "xbt/usdt"])
def test_a_pair_may_be_named_in_krakens_ways(
    command: Run,  # noqa: F811
    redis_url: str,
    background: Background,
    name: str,
) -> None:
    outcome = command("fill-gaps", "--symbol", name, REDIS_URL=redis_url)

    assert outcome.code == 0
    assert background.run(_queue(redis_url)) == [b"fill-gap:BTC/USDT:0"]


def test_while_kraken_does_not_answer_the_worker_is_asked_under_our_name(
    command: Run,  # noqa: F811
    redis_url: str,
    background: Background,
) -> None:
    away = {"REDIS_URL": redis_url, "KRAKEN_REST_URL": "http://127.0.0.1:9", **WANTED}
    outcome = command("fill-gaps", "--symbol", "XDG/XBT", **away)
    doubtful = command("fill-gaps", "--symbol", "XDGXBT", **away)

    assert (outcome.code, outcome.out) == (0, "")
    assert background.run(_queue(redis_url)) == [b"fill-gap:DOGE/BTC:0"]
    assert (doubtful.code, doubtful.out) == (1, "")
    assert "no answer from Kraken" in doubtful.err


def test_without_wait_the_worker_is_asked(command: Run, redis_url: str, background: Background) -> None:  # noqa: F811
    first = command("fill-gaps", REDIS_URL=redis_url, SYMBOLS="BTC/USDT,ETH/USDT")
    second = command("fill-gaps", "--symbol", "BTC/USDT", "--min-gap-minutes", "10")

    assert (first.code, second.code, first.out) == (0, 0, "")
    assert first.err.startswith("requested gap filling for 2 symbol(s) from the worker;")
    assert first.err.endswith(f"shows the missing data\n{NO_WORKER}")
    assert re.search("1 of them were in its queue already", second.err)
    assert background.run(_queue(redis_url)) == [b"fill-gap:BTC/USDT:0", b"fill-gap:ETH/USDT:0"]


async def _queue(redis_url: str) -> Any:
    async with Redis.from_url(redis_url) as redis:
        return sorted(await redis.zrange("kraken:jobs", 0, -1))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--symbol", "BTC/"], "expected BASE/QUOTE, such as BTC/USDT, got 'BTC/'"),
        (["--min-gap-minutes", "-1"], "--min-gap-minutes: expected a number from 0 to 1000000"),
        (["--min-gap-minutes", "inf", "--wait"], "--min-gap-minutes: expected a number from 0 to 1000000"),
        (["--min-gap-minutes", "nan", "--wait"], "--min-gap-minutes: expected a number from 0 to 1000000"),
        (["--min-gap-minutes", "soon"], "min-gap-minutes"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line(command: Run, arguments: list[str], complaint: str) -> None:  # noqa: F811
    outcome = command("fill-gaps", *arguments)

    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert complaint in outcome.err
