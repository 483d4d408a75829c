"""Kraken's answers to a subscribe, one a symbol and in any order."""

import itertools

import pytest

from kraken_history.kraken.websocket import Refused, Subscribed
from producers.subscriptions import CHANNELS, Subscriptions

BTC, ETH = "BTC/USDT", "ETH/USDT"
TRADE, OHLC = 1, 2


def accepted(channel: str, symbol: str) -> Subscribed:
    return Subscribed(channel, symbol, ())


def refused(symbol: str, req_id: int | None) -> Refused:
    return Refused(f"Currency pair not supported {symbol}", symbol, "subscribe", req_id)


def test_each_channel_is_asked_for_once_under_an_id_of_its_own() -> None:
    assert Subscriptions([BTC, ETH]).requests == [(TRADE, "trade"), (OHLC, "ohlc")]


@pytest.mark.parametrize("order", list(itertools.permutations(itertools.product(CHANNELS, [BTC, ETH]))))
def test_acknowledgements_may_come_in_any_order(order: tuple[tuple[str, str], ...]) -> None:
    subscriptions = Subscriptions([BTC, ETH])
    for already, (channel, symbol) in enumerate(order):
        assert len(subscriptions.unanswered) == len(order) - already
        subscriptions.accept(accepted(channel, symbol))

    assert not subscriptions.unanswered
    assert not subscriptions.refused


def test_an_acknowledgement_that_nobody_waits_for_changes_nothing() -> None:
    subscriptions = Subscriptions([BTC])
    subscriptions.accept(accepted("ticker", BTC))
    subscriptions.accept(accepted("trade", ETH))

    assert subscriptions.unanswered == {("trade", BTC), ("ohlc", BTC)}


def test_a_refused_symbol_is_named_once_and_the_others_go_on_waiting() -> None:
    subscriptions = Subscriptions([BTC, ETH])

    assert subscriptions.refuse(refused(ETH, TRADE)) == [ETH]
    assert subscriptions.unanswered == {("trade", BTC), ("ohlc", BTC), ("ohlc", ETH)}
    assert subscriptions.refuse(refused(ETH, OHLC)) == []
    assert subscriptions.unanswered == {("trade", BTC), ("ohlc", BTC)}
    assert subscriptions.refused == {ETH: "Currency pair not supported ETH/USDT"}
    assert not subscriptions.all_refused


def test_a_refusal_that_does_not_say_which_request_answers_the_symbol_on_both_channels() -> None:
    subscriptions = Subscriptions([BTC, ETH])
    subscriptions.refuse(refused(ETH, None))

    assert subscriptions.unanswered == {("trade", BTC), ("ohlc", BTC)}


def test_a_refusal_without_a_symbol_is_about_the_whole_request() -> None:
    subscriptions = Subscriptions([BTC, ETH])

    assert subscriptions.refuse(refused("", OHLC)) == [BTC, ETH]
    assert subscriptions.unanswered == {("trade", BTC), ("trade", ETH)}


def test_a_channel_refused_for_all_symbols_leaves_the_other_channel() -> None:
    """A refusal of ohlc for the only symbol once ended the session, and with it the trades."""
    subscriptions = Subscriptions([BTC])
    subscriptions.accept(accepted("trade", BTC))
    subscriptions.refuse(refused(BTC, OHLC))

    assert not subscriptions.unanswered
    assert not subscriptions.all_refused


def test_all_symbols_refused_leaves_nothing_to_wait_for() -> None:
    subscriptions = Subscriptions([BTC, ETH])
    for symbol in (BTC, ETH):
        assert not subscriptions.all_refused
        subscriptions.refuse(refused(symbol, None))

    assert subscriptions.all_refused
    assert not subscriptions.unanswered


def test_a_refused_symbol_that_is_accepted_later_is_refused_no_more() -> None:
    subscriptions = Subscriptions([BTC, ETH])
    for req_id in (TRADE, OHLC):
        subscriptions.refuse(refused(BTC, req_id))
        subscriptions.accept(accepted(CHANNELS[req_id - 1], ETH))
    assert list(subscriptions.refused) == [BTC]

    subscriptions.accept(accepted("trade", BTC))
    assert list(subscriptions.refused) == [BTC]
    subscriptions.accept(accepted("ohlc", BTC))
    assert subscriptions.refused == {}


def test_a_refusal_without_a_symbol_leaves_what_was_answered_already() -> None:
    subscriptions = Subscriptions([BTC, ETH])
    subscriptions.accept(accepted("trade", BTC))

    assert subscriptions.refuse(Refused("busy", "", "subscribe", TRADE)) == [ETH]


def test_what_was_accepted_is_not_asked_for_again_and_a_refusal_of_it_is_no_news() -> None:
    """One channel was refused and the other accepted. Asked for both again, Kraken refused the accepted one as
    subscribed already, and the symbol was shown as refused for ever.
    """
    subscriptions = Subscriptions([BTC, ETH])
    for channel, symbol in (("trade", BTC), ("ohlc", BTC), ("ohlc", ETH)):
        subscriptions.accept(accepted(channel, symbol))
    subscriptions.refuse(refused(ETH, TRADE))
    assert subscriptions.not_accepted_of("trade", [BTC, ETH]) == [ETH]
    assert subscriptions.not_accepted_of("ohlc", [BTC, ETH]) == []

    subscriptions.accept(accepted("trade", ETH))
    assert subscriptions.refuse(refused(ETH, OHLC)) == []
    assert subscriptions.refused == {}
