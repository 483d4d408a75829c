"""A small history to read."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest

from kraken_history.database.connections import create_pool
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from tests.support.examples import NOON, make_trade
from tests.support.servers import Background

MINUTES = 3_000
"""More than an iteration reads ahead, several times."""

END = NOON + timedelta(minutes=MINUTES)


async def store_trades(database_url: str, trades: Sequence[HistoricalTrade]) -> None:
    """Write them, as the consumer does."""
    async with await create_pool(database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(trades)


@pytest.fixture
def filled_url(migrated_database_url: str, background: Background) -> str:
    """A database with a trade in each of 3,000 minutes of BTC/USDT from NOON, and one of ETH/USDT."""
    trades = [make_trade(n + 1, NOON + timedelta(minutes=n), str(100 + Decimal(n) / 10)) for n in range(MINUTES)]
    background.run(store_trades(migrated_database_url, [*trades, make_trade(1, symbol="ETH/USDT")]))
    return migrated_database_url
