"""``backfill`` of several symbols."""

from collections.abc import Iterator

import asyncpg
import pytest

from kraken_history.fetching.backfill_targets import list_backfills
from tests.cli.samples import store, trade
from tests.support.command import Run, clean_environment, command
from tests.support.kraken import CountedSimulator
from tests.support.servers import Background

__all__ = ["clean_environment", "command"]  # fixtures

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


@pytest.fixture
def kraken(background: Background) -> Iterator[CountedSimulator]:
    """In a thread of its own, because the command has a loop of its own too."""
    kraken = CountedSimulator(SYMBOLS, history=10)
    background.run(kraken.start())
    yield kraken
    background.run(kraken.stop())


@pytest.fixture
def environment(migrated_database_url: str, redis_url: str, kraken: CountedSimulator) -> dict[str, str]:
    return {"DATABASE_URL": migrated_database_url, "REDIS_URL": redis_url, "KRAKEN_REST_URL": kraken.rest_url}


async def requested(database_url: str) -> list[str]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        return sorted(each.symbol for each in await list_backfills(pool))


def test_each_symbol_is_requested(command: Run, environment: dict[str, str], background: Background) -> None:
    outcome = command("backfill", "XBTUSDT", "SOL/USDT", "--from", "2026-01-01", **environment)

    told = [line for line in outcome.err.splitlines() if line.startswith("requested ")]
    assert outcome.code == 0
    assert [line.split()[1] for line in told] == ["BTC/USDT", "SOL/USDT"]
    assert background.run(requested(environment["DATABASE_URL"])) == ["BTC/USDT", "SOL/USDT"]


def test_all_are_those_that_are_stored_or_wanted(
    command: Run, environment: dict[str, str], background: Background
) -> None:
    background.run(store(environment["DATABASE_URL"], [trade(1, symbol="ETH/USDT")]))

    outcome = command("backfill", "--all", SYMBOLS="ETH/USDT,BTC/USDT", **environment)

    assert outcome.code == 0
    assert background.run(requested(environment["DATABASE_URL"])) == ["BTC/USDT", "ETH/USDT"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("BTC/USDT", "--all"), "expected symbols or --all, got both"),
        (("BTC/USDT", "ETH/USDT", "--pause"), "expected one symbol, or none for all"),
        ((), "expected a symbol"),
    ],
)
def test_contradictions_are_refused(
    command: Run, environment: dict[str, str], words: tuple[str, ...], told: str
) -> None:
    outcome = command("backfill", *words, **environment)

    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert told in outcome.err
