"""Books: the names that Kraken gives a pair, and its digits."""

import json
from pathlib import Path

import pytest

from kraken_history.errors import UnknownSymbol
from simulator.books import make_books


@pytest.mark.parametrize(
    ("symbol", "key", "altname", "wsname"),
    [
        ("BTC/USDT", "XBTUSDT", "XBTUSDT", "XBT/USDT"),
        ("XRP/BTC", "XXRPXXBT", "XRPXBT", "XRP/XBT"),
        ("BTC/USD", "XXBTZUSD", "XBTUSD", "XBT/USD"),
        ("ETH/BTC", "XETHXXBT", "ETHXBT", "ETH/XBT"),
        ("DOGE/USD", "XDGUSD", "XDGUSD", "XDG/USD"),
        ("ADA/AUSD", "ADAAUSD", "ADAAUSD", "ADA/AUSD"),
    ],
)
def test_a_book_has_the_names_that_kraken_gives_it(symbol: str, key: str, altname: str, wsname: str) -> None:
    (book,) = make_books([symbol])

    assert (book.pair.key, book.pair.altname, book.pair.wsname) == (key, altname, wsname)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDT", "BTC/USDT"),
        ("btc/usdt", "BTC/USDT"),
        ("XBT/USDT", "BTC/USDT"),
        ("XXBTZUSD", "BTC/USD"),
        ("XDG/USD", "DOGE/USD"),
        ("aaplxusd", "AAPLx/USD"),
        ("NVDAx/USD", "NVDAx/USD"),
        ("FOO/XBT", "FOO/BTC"),
    ],
)
def test_a_book_is_found_under_other_names_of_its_symbol(name: str, symbol: str) -> None:
    assert [book.symbol for book in make_books([name])] == [symbol]


@pytest.mark.parametrize("symbol", ["", "BTC/", "A/B/C", "BTC", "foo/bar", "FOOBAR"])
def test_a_name_that_no_book_can_have_is_refused(symbol: str) -> None:
    with pytest.raises(UnknownSymbol, match=f"expected BASE/QUOTE.*, got '{symbol}'"):
        make_books([symbol])


def test_a_tokenised_asset_has_its_own_class_and_keeps_its_letters() -> None:
    (book,) = make_books(["AAPLx/USD"])

    entry = book.asset_pair()

    assert (book.pair.altname, book.pair.key, book.pair.wsname) == ("AAPLxUSD", "AAPLxUSD", "AAPLx/USD")
    assert {name: entry[name] for name in ("aclass_base", "base", "quote", "pair_decimals")} == {
        "aclass_base": "tokenized_asset",
        "base": "AAPLx",
        "quote": "ZUSD",
        "pair_decimals": 2,
    }


def test_prices_in_trades_have_at_least_five_decimals() -> None:
    btc, xrp = make_books(["BTC/USDT", "XRP/BTC"])

    assert (btc.price(1_054_336), btc.padded_price(1_054_336)) == ("105433.6", "105433.60000")
    assert xrp.padded_price(2_335) == "0.00002335"


def test_asset_pairs_entries_have_the_fields_and_names_that_were_recorded(recordings: Path) -> None:
    recorded = json.loads((recordings / "rest/asset_pairs_2026-09-25_5pairs.json").read_bytes())["result"]
    made = {book.pair.key: book.asset_pair() for book in make_books(["BTC/USD", "DOGE/USD", "ETH/BTC", "SOL/USD"])}

    assert set(made) <= set(recorded)
    for key, entry in made.items():
        assert set(entry) <= set(recorded[key])
        for field in ("altname", "wsname", "base", "quote", "pair_decimals", "lot_decimals", "tick_size", "status"):
            assert entry[field] == recorded[key][field]
