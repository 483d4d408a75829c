"""Exchanges without sockets, and requests of tests to them."""

import json
from collections.abc import Sequence
from typing import Any

from kraken_history.symbols import DEFAULT_SYMBOLS
from simulator.books import make_books
from simulator.exchange import Exchange, SeededFeed
from simulator.rate_limit import RateLimit
from simulator.rest import RestApi
from simulator.tape import TapeTrade

NOON_NS = 1_790_000_040_000_000_000 // 60_000_000_000 * 60_000_000_000
"""The start of a minute."""


class ManualClock:
    """A clock that a test moves."""

    def __init__(self, now_ns: int = NOON_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(seconds * 1e9)


def seeded_exchange(
    clock: ManualClock | None = None, *, symbols: Sequence[str] = DEFAULT_SYMBOLS, seed: int = 1
) -> Exchange:
    """An exchange with seeded trades and no history."""
    books = make_books(symbols)
    return Exchange(books, SeededFeed(books, seed, clock or ManualClock()))


def rest_of(exchange: Exchange, clock: ManualClock | None = None, *, burst: int = 1_000_000) -> RestApi:
    """Its REST, practically without a limit."""
    return RestApi(exchange, RateLimit(burst, 1.0, clock=lambda: 0.0), clock or ManualClock())


def ask(rest: RestApi, method: str, **params: str) -> Any:
    """An answer, decoded."""
    return json.loads(rest.answer(method, params, "127.0.0.1"))


def identities(trades: Sequence[TapeTrade]) -> list[tuple[object, ...]]:
    """All fields of each trade except its time."""
    return [(trade.symbol, trade.id, trade.price, trade.volume, trade.side, trade.order_type) for trade in trades]
