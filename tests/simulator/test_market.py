"""Seeded trades: deterministic, numbered without holes, and as awkward as real ones."""

from itertools import groupby, pairwise

from kraken_history.symbols import DEFAULT_SYMBOLS
from simulator.books import make_books
from simulator.market import SeededMarket, UntimedTrade

BOOKS = make_books(DEFAULT_SYMBOLS)


def test_the_same_seed_gives_the_same_trades_however_they_are_taken() -> None:
    at_once = SeededMarket(BOOKS, seed=7).take(500)

    market = SeededMarket(BOOKS, seed=7)
    in_portions = [trade for count in (1, 2, 97, 400) for trade in market.take(count)]

    assert in_portions == at_once


def test_taking_the_rest_of_an_order_loses_nothing() -> None:
    market = SeededMarket(BOOKS, seed=7)
    trades: list[UntimedTrade] = []
    while len(trades) < 300:
        trades += market.take(1)
        trades += market.take_rest_of_order()

    assert trades == SeededMarket(BOOKS, seed=7).take(len(trades))


def test_another_seed_gives_other_trades() -> None:
    assert SeededMarket(BOOKS, seed=1).take(20) != SeededMarket(BOOKS, seed=2).take(20)


def test_ids_of_each_book_are_consecutive() -> None:
    ids: dict[str, list[int]] = {}
    for trade in SeededMarket(BOOKS, seed=3).take(5000):
        ids.setdefault(trade.symbol, []).append(trade.id)

    assert set(ids) == set(DEFAULT_SYMBOLS)
    assert all(later == earlier + 1 for of_book in ids.values() for earlier, later in pairwise(of_book))


def test_prices_and_volumes_stay_positive_and_near_home() -> None:
    homes = {book.symbol: book.start_ticks for book in BOOKS}
    trades = SeededMarket(BOOKS, seed=3).take(50_000)

    assert all(trade.volume > 0 for trade in trades)
    assert all(0.8 < trade.price / homes[trade.symbol] < 1.2 for trade in trades)


def test_orders_are_filled_by_one_or_more_trades_of_one_side_and_some_are_equal() -> None:
    trades = SeededMarket(BOOKS, seed=3).take(5000)
    sides: list[set[bool]] = []
    for trade in trades:
        if trade.starts_order:
            sides.append(set())
        sides[-1].add(trade.is_buy)

    assert all(len(of_order) == 1 for of_order in sides)
    assert len(trades) * 0.5 < len(sides) < len(trades) * 0.9
    twins = [len(list(group)) for _, group in groupby(trades, key=lambda trade: (trade.price, trade.volume))]
    assert max(twins) >= 2


def test_the_thin_book_sleeps_for_long_stretches_and_the_others_do_not() -> None:
    symbols = [trade.symbol for trade in SeededMarket(BOOKS, seed=3).take(40_000)]
    longest = {
        symbol: max(
            later - earlier for earlier, later in pairwise(at for at, name in enumerate(symbols) if name == symbol)
        )
        for symbol in DEFAULT_SYMBOLS
    }

    assert longest["XRP/BTC"] > 2_000
    assert all(gap < 500 for symbol, gap in longest.items() if symbol != "XRP/BTC")


def test_a_market_of_a_single_thin_book_does_not_sleep_for_ever() -> None:
    assert len(SeededMarket(make_books(["XRP/BTC"]), seed=1).take(1000)) == 1000
