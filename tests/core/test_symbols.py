"""Every book under each of its names, and no name guessed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kraken_history.errors import UnknownSymbol, UsageError
from kraken_history.kraken.rest import decode_asset_pairs, decode_result
from kraken_history.symbols import DEFAULT_PAIRS, DEFAULT_SYMBOLS, Pair, PairMap, our_symbol, symbol_from_wsname

V2_NAMES = {"XBT": "BTC", "XDG": "DOGE"}


def asset_pairs(recordings: Path, name: str) -> Mapping[str, Mapping[str, Any]]:
    answer = json.loads((recordings / f"rest/{name}.json").read_bytes())
    result: Mapping[str, Mapping[str, Any]] = answer["result"]
    return result


def decoded(recordings: Path, name: str) -> list[Pair]:
    return decode_asset_pairs(decode_result(200, (recordings / f"rest/{name}.json").read_bytes()))


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


@pytest.mark.parametrize("name", ["btc/usdt", "XBT/USDT", " xbtusdt ", "XbtUsdt"])
def test_a_name_is_found_in_upper_or_lower_case(name: str) -> None:
    assert PairMap().find(name).symbol == "BTC/USDT"
    assert name in PairMap()


@pytest.mark.parametrize("name", ["BTCUSDT", "BTC-USDT", "USDT/BTC", "BTC/USD", "", "/", "XBTUSDT.d"])
def test_a_name_that_nobody_listed_is_not_guessed_at(name: str) -> None:
    assert name not in PairMap()
    with pytest.raises(UnknownSymbol) as refusal:
        PairMap().find(name)

    assert refusal.value.symbol == name
    assert isinstance(refusal.value, UsageError)
    assert str(refusal.value) == f"unknown symbol {name!r}: Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT"


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("xbt/usdt", "BTC/USDT"),
        (" XBTUSDT", "BTC/USDT"),
        ("XDG/XBT", "DOGE/BTC"),
        ("FOO/BAR", "FOO/BAR"),
        ("XDGXBT", None),
        ("BTCUSDT", None),
    ],
)
def test_our_symbol_is_told_without_kraken_where_no_name_need_be_cut_apart(name: str, symbol: str | None) -> None:
    assert our_symbol(name) == symbol


def test_names_without_a_slash_are_not_cut_apart() -> None:
    """``AUSD`` is an asset: ADAAUSD is ADA/AUSD, and neither ADAA/USD nor ADA/USD."""
    ada_ausd = Pair("ADA/AUSD", "ADAAUSD", "ADAAUSD", "ADA/AUSD")
    ada_usd = Pair("ADA/USD", "ADAUSD", "ADAUSD", "ADA/USD")

    pairs = PairMap([ada_ausd, ada_usd])

    assert pairs.find("ADAAUSD") == ada_ausd
    assert pairs.find("ADAUSD") == ada_usd
    assert "ADAA/USD" not in pairs


def test_an_unknown_symbol_names_what_there_is_instead() -> None:
    assert str(UnknownSymbol("FOO/BAR", ["BTC/USDT", "SOL/USDT"])) == (
        "unknown symbol 'FOO/BAR'; known are BTC/USDT, SOL/USDT"
    )
