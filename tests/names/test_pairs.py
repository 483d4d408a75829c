"""Every book under each of its names, and no name guessed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.errors import UnknownSymbol, UsageError
from kraken_history.kraken.pairs import (
    PairMap,
    checked_name,
    find_stored,
    find_symbol,
    spellings,
    symbol_without_kraken,
)
from kraken_history.kraken.rest import decode_asset_pairs, decode_result
from kraken_history.symbols import DEFAULT_PAIRS, DEFAULT_SYMBOLS, TOKENIZED_ASSET, Pair, symbol_from_wsname

V2_NAMES = {"XBT": "BTC", "XDG": "DOGE"}


def asset_pairs(recordings: Path, name: str) -> Mapping[str, Mapping[str, Any]]:
    answer = json.loads((recordings / f"rest/{name}.json").read_bytes())
    result: Mapping[str, Mapping[str, Any]] = answer["result"]
    return result


def decoded(recordings: Path, name: str) -> list[Pair]:
    return decode_asset_pairs(decode_result(200, (recordings / f"rest/{name}.json").read_bytes()))


NOT_NAMES = ["", "/", "BTC", "BTC/", "/USDT", "BTC-USDT", "BTC/USDT/EUR", "BTC USDT", "BTC/USDT;", "A" * 40]
OF_2021, OF_2026 = "asset_pairs_2021-04-17_304pairs", "asset_pairs_2026-09-25_5pairs"


def test_each_of_the_304_recorded_pairs_is_found_by_all_its_names(recordings: Path) -> None:
    rows = asset_pairs(recordings, OF_2021)
    pairs = PairMap(decoded(recordings, OF_2021))

    assert len(rows) == 304
    for key, row in rows.items():
        if "wsname" not in row:
            continue
        base, quote = row["wsname"].split("/")
        v2_symbol = f"{V2_NAMES.get(base, base)}/{V2_NAMES.get(quote, quote)}"
        found = {pairs.find(name) for name in (key, row["altname"], row["wsname"], v2_symbol)}
        assert len(found) == 1, f"{key} leads to {found}"
        (pair,) = found
        assert (pair.key, pair.altname, pair.wsname, pair.symbol) == (key, row["altname"], row["wsname"], v2_symbol)


def test_dark_pools_have_no_websocket_name_and_are_left_out(recordings: Path) -> None:
    rows = asset_pairs(recordings, OF_2021)
    pairs = PairMap(decoded(recordings, OF_2021))

    dark = [key for key, row in rows.items() if "wsname" not in row]

    assert len(dark) == 11
    assert len(pairs) == 293
    for key in dark:
        assert key not in pairs
        assert rows[key]["altname"] not in pairs


def test_only_xbt_and_xdg_are_renamed_on_whichever_side_they_stand(recordings: Path) -> None:
    renamed = {pair.wsname: pair.symbol for pair in decoded(recordings, OF_2021) if pair.wsname != pair.symbol}

    assert len(renamed) == 65
    assert all(wsname.startswith(("XBT/", "XDG/")) or wsname.endswith("/XBT") for wsname in renamed)
    assert renamed["XDG/XBT"] == "DOGE/BTC"
    assert renamed["XBT/USDT"] == "BTC/USDT"
    assert renamed["ETH/XBT"] == "ETH/BTC"
    assert renamed["TBTC/XBT"] == "TBTC/BTC"


def test_no_two_recorded_books_share_a_name(recordings: Path) -> None:
    pairs = decoded(recordings, OF_2021)

    names = [name for pair in pairs for name in {pair.key, pair.altname, pair.wsname, pair.symbol}]

    assert len(names) == len(set(names))


def test_the_recorded_pairs_of_2026_are_found_with_their_status(recordings: Path) -> None:
    pairs = PairMap(decoded(recordings, OF_2026))

    assert [(pair.symbol, pair.key, pair.altname, pair.status) for pair in pairs] == [
        ("BTC/USD", "XXBTZUSD", "XBTUSD", "online"),
        ("DOGE/USD", "XDGUSD", "XDGUSD", "online"),
        ("ETH/BTC", "XETHXXBT", "ETHXBT", "online"),
        ("SOL/USD", "SOLUSD", "SOLUSD", "online"),
        ("ACA/EUR", "ACAEUR", "ACAEUR", "cancel_only"),
    ]


def test_the_five_default_pairs_are_those_of_the_specification() -> None:
    assert DEFAULT_SYMBOLS == ("XRP/USDT", "BTC/USDT", "XRP/BTC", "ETH/USDT", "SOL/USDT")


def test_the_default_pairs_agree_with_what_kraken_lists(recordings: Path) -> None:
    rows = asset_pairs(recordings, OF_2021)

    listed = {pair.key for pair in DEFAULT_PAIRS if pair.key in rows}

    assert listed == {"XRPUSDT", "XBTUSDT", "XXRPXXBT", "ETHUSDT"}  # SOL/USDT came after April 2021
    for pair in DEFAULT_PAIRS:
        if pair.key in rows:
            assert (pair.altname, pair.wsname) == (rows[pair.key]["altname"], rows[pair.key]["wsname"])
        assert pair.symbol == symbol_from_wsname(pair.wsname)


@pytest.mark.parametrize("name", ["btc/usdt", "XBT/USDT", " xbtusdt ", "XbtUsdt", "BTCUSDT", "XXBT/USDT"])
def test_a_name_is_found_in_upper_or_lower_case(name: str) -> None:
    assert PairMap().find(name).symbol == "BTC/USDT"
    assert name in PairMap()


@pytest.mark.parametrize("name", ["USDT/BTC", "BTC/USD", "XBTUSDT.d", "XBTUSD", "TUSDT"])
def test_a_name_that_nobody_listed_is_not_guessed_at(name: str) -> None:
    assert name not in PairMap()
    with pytest.raises(UnknownSymbol) as refusal:
        PairMap().find(name)

    assert refusal.value.symbol == name
    assert isinstance(refusal.value, UsageError)
    assert str(refusal.value) == f"unknown symbol {name!r}: Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT"


@pytest.mark.parametrize("text", NOT_NAMES)
def test_a_text_that_cannot_be_a_name_is_refused_without_a_word_of_kraken(text: str) -> None:
    for find in (PairMap().find, checked_name, symbol_without_kraken, lambda name: find_symbol(name, ["BTC/USDT"])):
        with pytest.raises(UnknownSymbol) as refusal:
            find(text)

        assert str(refusal.value) == f"expected BASE/QUOTE, such as BTC/USDT, got {text!r}"


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("xbt/usdt", "BTC/USDT"),
        (" XBTUSDT", "BTC/USDT"),
        ("BTCUSDT", "BTC/USDT"),
        ("XDG/XBT", "DOGE/BTC"),
        ("XXDG/XXBT", "DOGE/BTC"),
        ("XXBT/ZUSD", "BTC/USD"),
        ("XTZ/ZEUR", "XTZ/EUR"),
        ("ZEUS/USD", "ZEUS/USD"),
        ("FOO/BAR", "FOO/BAR"),
        ("AAPLx/USD", "AAPLx/USD"),
        ("aaplx/usd", "aaplx/usd"),
        ("XDGXBT", None),
        ("AAPLxUSD", None),
    ],
)
def test_without_kraken_letters_stay_as_they_are_and_no_name_is_cut_apart(name: str, symbol: str | None) -> None:
    assert symbol_without_kraken(name) == symbol


def test_names_without_a_slash_are_not_cut_apart() -> None:
    """``AUSD`` is an asset: ADAAUSD is ADA/AUSD, and neither ADAA/USD nor ADA/USD."""
    ada_ausd = Pair("ADA/AUSD", "ADAAUSD", "ADAAUSD", "ADA/AUSD")
    ada_usd = Pair("ADA/USD", "ADAUSD", "ADAUSD", "ADA/USD")

    pairs = PairMap([ada_ausd, ada_usd])

    assert pairs.find("ADAAUSD") == ada_ausd
    assert pairs.find("ADAUSD") == ada_usd
    assert "ADAA/USD" not in pairs


AAPL = Pair("AAPLx/USD", "AAPLxUSD", "AAPLxUSD", "AAPLx/USD", "online", TOKENIZED_ASSET)
OTHER_AAPL = Pair("AAPLX/USD", "AAPLXUSD", "AAPLXUSD", "AAPLX/USD")


def test_letters_of_another_case_are_another_pair() -> None:
    pairs = PairMap([AAPL, OTHER_AAPL])

    assert {name: pairs.find(name) for name in ("AAPLx/USD", "AAPLxUSD")} == {"AAPLx/USD": AAPL, "AAPLxUSD": AAPL}
    assert {pairs.find(name).symbol for name in ("AAPLX/USD", "AAPLXUSD", "AAPLX/ZUSD")} == {"AAPLX/USD"}


@pytest.mark.parametrize("name", ["aaplx/usd", "AaplX/usd", "aaplxusd"])
def test_a_name_whose_case_leaves_two_pairs_names_both(name: str) -> None:
    pairs = PairMap([AAPL, OTHER_AAPL])

    for find in (pairs.find, pairs.get, lambda given: find_symbol(given, [AAPL.symbol, OTHER_AAPL.symbol])):
        with pytest.raises(UnknownSymbol) as refusal:
            find(name)

        assert str(refusal.value) == f"{name!r} may mean AAPLx/USD or AAPLX/USD: write the one that is meant"
        assert refusal.value.known == ("AAPLx/USD", "AAPLX/USD")


@pytest.mark.parametrize("name", ["aaplx/usd", "AAPLX/USD", "AAPLXUSD"])
def test_in_another_case_the_only_pair_is_found(name: str) -> None:
    assert PairMap([AAPL]).find(name) == AAPL


def test_a_name_of_krakens_goes_before_a_name_that_is_made() -> None:
    """``BTCUSD`` is made of BTC/USD; if Kraken calls another pair so, it is the other one."""
    bitcoin = Pair("BTC/USD", "XBTUSD", "XXBTZUSD", "XBT/USD")
    other = Pair("BT/CUSD", "BTCUSD", "BTCUSD", "BT/CUSD")

    for pairs in (PairMap([bitcoin, other]), PairMap([other, bitcoin])):
        assert pairs.find("BTCUSD") == other
        assert pairs.find("btcusd") == other
        assert pairs.find("XBTUSD") == bitcoin


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("XXBTZUSD", "BTC/USD"),
        ("XBT/USD", "BTC/USD"),
        ("btcusd", "BTC/USD"),
        ("XETHXXBT", "ETH/BTC"),
        ("DOGE/XBT", "DOGE/BTC"),
        ("XDGXBT", "DOGE/BTC"),
        ("AAPLxUSD", "AAPLx/USD"),
        ("aaplx/usd", "AAPLx/USD"),
        ("BTC/USD", "BTC/USD"),
        ("BTC/EUR", None),
        ("XBTZ/USD", None),
    ],
)
def test_a_stored_symbol_is_found_without_kraken(name: str, symbol: str | None) -> None:
    assert find_symbol(name, ["AAPLx/USD", "BTC/USD", "DOGE/BTC", "ETH/BTC"]) == symbol


def test_what_the_database_does_not_hold_says_what_it_holds() -> None:
    with pytest.raises(UnknownSymbol) as refusal:
        find_stored("FOOBAR", ["BTC/USDT", "SOL/USDT"])
    with pytest.raises(UnknownSymbol) as of_nothing:
        find_stored("FOO/BAR", [])
    with pytest.raises(UnknownSymbol) as of_many:
        find_stored("FOO/BAR", [f"A{n}/USD" for n in range(23)])

    assert str(refusal.value) == "the database holds nothing of 'FOOBAR': expected one of BTC/USDT, SOL/USDT"
    assert str(of_nothing.value) == "the database holds nothing of 'FOO/BAR': it holds nothing yet"
    assert str(of_many.value).endswith(", A19/USD and 3 more")


@pytest.mark.parametrize("recording", [OF_2021, OF_2026])
def test_every_name_of_every_recorded_pair_finds_it_with_kraken_and_without(recordings: Path, recording: str) -> None:
    listed = decoded(recordings, recording)
    pairs, symbols = PairMap(listed), [pair.symbol for pair in listed]

    for pair in listed:
        for name in (pair.symbol, pair.altname, pair.key, pair.wsname, *spellings(pair.symbol)):
            for written in (name, name.lower(), f" {name} "):
                assert pairs.find(written) == pair, written
                assert find_symbol(written, symbols) == pair.symbol, written


ASSETS = st.text(st.sampled_from("ABXZx2."), min_size=1, max_size=4).filter(lambda text: text[0] not in ".")


@given(st.lists(st.tuples(ASSETS, ASSETS), min_size=1, max_size=8), st.data())
def test_a_symbol_itself_always_means_itself_and_no_other(assets: list[tuple[str, str]], data: st.DataObject) -> None:
    symbols = [symbol_from_wsname("/".join(pair)) for pair in assets]
    symbol = data.draw(st.sampled_from(symbols))

    assert find_symbol(symbol, symbols) == symbol


@given(st.lists(st.tuples(ASSETS, ASSETS), min_size=1, max_size=8))
def test_a_made_name_means_a_symbol_that_it_is_made_of_and_of_several_none_is_chosen(
    assets: list[tuple[str, str]],
) -> None:
    symbols = list(dict.fromkeys(symbol_from_wsname("/".join(pair)) for pair in assets))
    for name in {name for symbol in symbols for name in spellings(symbol) if len(name) > 3} - set(symbols):
        meant = [symbol for symbol in symbols if name in spellings(symbol)]

        if len(meant) == 1:
            assert find_symbol(name, symbols) == meant[0]
        else:
            with pytest.raises(UnknownSymbol, match="write the one that is meant"):
                find_symbol(name, symbols)
