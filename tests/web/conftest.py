"""The server of the HTTP API over a database with an hour of trades, and a client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import aiohttp
import asyncpg
import pytest
import uvicorn
from pydantic import SecretStr

from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from kraken_history.web.application import create_app
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures

START = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
HOUR = [
    HistoricalTrade(
        n + 1, "BTC/USDT", START + timedelta(seconds=10 * n), Decimal(90_000 + n % 7), Decimal("0.00000150"),
        "buy" if n % 2 else "sell", "limit",
    )
    for n in range(361)
]  # fmt: skip
"""Six trades a minute from 10:00 to 11:00, the last one at 11:00."""

Serve = Callable[..., Awaitable[str]]


@asynccontextmanager
async def served(database_url: str, *, host: str = "127.0.0.1", token: SecretStr | None = None) -> AsyncIterator[str]:
    """A running server; its URL."""
    app = create_app(database_url, host=host, token=token)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), running
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await running


@pytest.fixture
async def history_url(migrated_database_url: str) -> str:
    """A database with :data:`HOUR`."""
    async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(HOUR)
    return migrated_database_url


@pytest.fixture
async def base(history_url: str) -> AsyncIterator[str]:
    async with served(history_url) as url:
        yield url


@pytest.fixture
async def client(base: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(base) as session:
        yield session
