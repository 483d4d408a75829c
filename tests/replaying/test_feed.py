"""Stored trades, one order at a time."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from decimal import Decimal

import pytest

from kraken_history.errors import UsageError
from kraken_history.records import HistoricalTrade
from replaying.feed import StoredFeed, tape_trade
from replaying.stored import first_microsecond
from simulator.books import make_books
from simulator.notation import rest_time
from tests.support.examples import NOON, make_trade

BOOKS = {book.symbol: book for book in make_books(["BTC/USDT", "ETH/USDT"])}
LATER = NOON + timedelta(microseconds=1)


async def given(trades: Sequence[HistoricalTrade]) -> AsyncIterator[HistoricalTrade]:
    for trade in trades:
        yield trade


async def test_an_order_is_what_shares_a_symbol_and_an_instant() -> None:
    trades = [
        make_trade(1),
        make_trade(2),
        make_trade(9, symbol="ETH/USDT"),
        make_trade(3, LATER),
        make_trade(4, LATER),
    ]
    feed = StoredFeed(given(trades), BOOKS, lambda: 0)

    orders = []
    while order := await feed.read_order():
        assert feed.take(len(order)) == order
        orders.append([trade.id for trade in order])

    assert orders == [[1, 2], [9], [3, 4]]
    assert feed.is_finished
    assert await feed.read_order() == []


def test_a_trade_keeps_every_digit_and_its_time() -> None:
    stored = make_trade(7, LATER, "105433.6", "0.00027625", side="sell", order_type="market", misc="x")

    trade = tape_trade(BOOKS["BTC/USDT"], stored)

    assert (trade.price, trade.volume) == (1054336, 27625)
    assert trade.time_ns == int(NOON.timestamp()) * 10**9 + 1000
    assert (trade.id, trade.side, trade.order_type, trade.misc) == (7, "sell", "market", "x")


def test_a_trade_with_more_digits_than_kraken_sends_is_refused_and_not_rounded() -> None:
    with pytest.raises(UsageError, match=r"cannot replay trade 7 of BTC/USDT: expected at most 1 decimals, got 1\.23"):
        tape_trade(BOOKS["BTC/USDT"], make_trade(7, price="1.23"))
    with pytest.raises(UsageError, match="at most 8 decimals"):
        tape_trade(BOOKS["BTC/USDT"], make_trade(7, volume=str(Decimal("1e-9"))))


@pytest.mark.parametrize("microsecond", [0, 1, 1_762_776_000_123_456, 1_762_776_000_123_457, 4_000_000_000_999_999])
def test_since_finds_the_first_microsecond_that_kraken_would_compare_as_equal(microsecond: int) -> None:
    assert first_microsecond(rest_time(microsecond * 1000)) == microsecond
    assert first_microsecond(rest_time(microsecond * 1000 + 500)) == microsecond + 1
