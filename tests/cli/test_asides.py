"""``status`` counts trades that are known and not stored."""

import json

import asyncpg
import msgspec
import pytest

from kraken_history.completeness.unreachable import note_unreachable
from kraken_history.records import RefusedTrade, UnreachableTrades
from kraken_history.storing.store import Store
from tests.cli.samples import START, trade
from tests.support.command import Run
from tests.support.servers import Background

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def fill(database_url: str) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        store = Store(pool)
        await store.write(
            [trade(1), trade(3, 1), trade(9, 2)], refused=[RefusedTrade(2, "BTC/USDT", START, "volume 0", "[]")]
        )
        await store.write([msgspec.structs.replace(trade(3, 1), side="sell")])
        async with pool.acquire() as connection:
            await note_unreachable(connection, [UnreachableTrades("BTC/USDT", START, 3, 7)])  # 3 is stored


def test_each_kind_is_counted_per_symbol(
    migrated_database_url: str, redis_url: str, background: Background, command: Run
) -> None:
    background.run(fill(migrated_database_url))

    table = command("status", DATABASE_URL=migrated_database_url, REDIS_URL=redis_url)
    symbol = json.loads(command("status", "--json").out)["symbols"]["BTC/USDT"]

    assert (symbol["refused"], symbol["unreachable"], symbol["reused_ids"]) == (1, 4, 1)
    assert (symbol["missing"], symbol["trades"]) == (5, 3)
    (line,) = [line for line in table.out.splitlines() if line.startswith("BTC/USDT:")]
    assert line == (
        "BTC/USDT: 1 trade(s) refused because of a value that is not valid,"
        " 4 missing trade(s) that Kraken's REST API cannot show,"
        " 1 id(s) under which Kraken sent a second trade, which was not stored"
    )
