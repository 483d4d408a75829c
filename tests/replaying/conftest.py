"""A stored history of two symbols, and servers that replay it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.gaps import TradeGapsChoice
from kraken_history.records import HistoricalTrade, utc_from_unix_ns
from kraken_history.storing.store import Store
from replaying.server import KEPT_TRADES, ReplayServer
from replaying.stored import StoredHistory, Wanted, read_books
from simulator.books import make_books
from simulator.exchange import Exchange, SeededFeed
from simulator.notation import VOLUME_DECIMALS
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
from tests.support.examples import NOON
from tests.support.exchanges import ManualClock
from tests.support.servers import DatabaseServer

BTC, XRP = SYMBOLS = ("BTC/USDT", "XRP/BTC")
START, END = NOON, NOON + timedelta(minutes=30)
Serve = Callable[..., Awaitable[ReplayServer]]


def seeded_trades(count: int, end: datetime = END, *, minutes: int = 30) -> list[HistoricalTrade]:
    """Trades such as Kraken's, before ``end``: several in an instant, equal twins, trailing zeros cut."""
    clock = ManualClock(int(end.timestamp()) * 10**9)
    books = make_books(SYMBOLS)
    exchange = Exchange(books, SeededFeed(books, 7, clock))
    exchange.emit_history(count, minutes / 60)
    return [
        HistoricalTrade(
            trade.id,
            book.symbol,
            utc_from_unix_ns(trade.time_ns),
            _canonical(trade.price, book.price_decimals),
            _canonical(trade.volume, VOLUME_DECIMALS),
            "buy" if trade.is_buy else "sell",
            trade.order_type,
        )
        for book in books
        for trade in exchange.tapes[book.symbol].trades(0, count)
    ]


def _canonical(units: int, decimals: int) -> Decimal:
    number = Decimal(units).scaleb(-decimals).normalize()
    return number.quantize(Decimal(1)) if number == number.to_integral_value() else number


@pytest.fixture(scope="session")
def trades() -> list[HistoricalTrade]:
    """Some thousands, of both symbols, by symbol and id."""
    return seeded_trades(4_000)


@pytest.fixture(scope="session")
def database_server(_postgresql_server: DatabaseServer) -> DatabaseServer:
    """One kind of server: these tests are about what is made of a read, and other tests read from both."""
    return _postgresql_server


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
async def filled(pool: asyncpg.Pool, migrated_database_url: str, trades: list[HistoricalTrade]) -> str:
    """The URL of a database with these trades; the newest of each symbol is after the end of what is proven."""
    await Store(pool).write(trades)
    return migrated_database_url


@pytest.fixture
async def serve(filled: str) -> AsyncIterator[Serve]:
    """Opens servers, which are closed in the end."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(HistoricalDataProvider(filled, 1, 2))

        async def open_server(
            *symbols: str,
            start: datetime = START,
            end: datetime = END,
            speed: float | None = None,
            gaps: TradeGapsChoice = "ignore",
            kept_trades: int = KEPT_TRADES,
        ) -> ReplayServer:
            wanted = Wanted(symbols, start, end, speed, gaps)
            history = StoredHistory(provider, wanted)
            names = await history.symbols()
            books = await read_books(filled, names, wanted.span)
            server = ReplayServer(
                history,
                wanted,
                books,
                history.trades(names),
                kept_trades=kept_trades,
                rest_burst=100_000,
                heartbeat_s=0.05,
            )
            stack.push_async_callback(server.close)
            await server.open()
            return server

        yield open_server
