"""What pair a file is of, when its name is all there is."""

from pathlib import Path

import pytest

from kraken_history.csv_import.offline_names import symbol_from_name
from kraken_history.kraken.rest import decode_asset_pairs, decode_result


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDC", "BTC/USDC"),
        ("XBTUSD", "BTC/USD"),
        ("BCHEUR", "BCH/EUR"),
        ("bcheur", "BCH/EUR"),
        ("XDGUSD", "DOGE/USD"),
        ("ETHXBT", "ETH/BTC"),
        ("USDTUSD", "USDT/USD"),
        ("USDCUSDT", "USDC/USDT"),
        ("EURUSD", "EUR/USD"),
        ("ADAUSD", "ADA/USD"),
        ("ETH2.SETH", "ETH2.S/ETH"),
        ("GIGGLEUSD", "GIGGLE/USD"),
    ],
)
def test_a_name_that_can_be_read_in_one_way_is_read(name: str, symbol: str) -> None:
    assert symbol_from_name(name) == symbol


@pytest.mark.parametrize(
    "name",
    [
        "XBTAUSD",  # XBT/AUSD?
        "QQQRLUSD",  # QQQ/RLUSD, or QQQRL/USD?
        "SCAUSD",  # SC/AUSD, or SCA/USD?
        "ETHWBTC",  # ETH/WBTC, or ETHW/BTC?
        "USDTZUSD",
        "XXBTZUSD",  # the key of AssetPairs, which is no name of a download
        "XICNXETH",  # likewise, of an asset that is not among the known ones
        "XBTUSD.d",
        "USD",
        "USDT",
        "XUSD",
        "note",
        "teeth",
        "NOSUCH",
    ],
)
def test_a_name_that_leaves_a_doubt_is_not_read(name: str) -> None:
    assert symbol_from_name(name) is None


@pytest.mark.parametrize("file", ["asset_pairs_2021-04-17_304pairs.json", "asset_pairs_2026-09-25_5pairs.json"])
def test_what_kraken_listed_is_read_as_kraken_reads_it(recordings: Path, file: str) -> None:
    pairs = decode_asset_pairs(decode_result(200, (recordings / "rest" / file).read_bytes()))

    assert pairs
    assert {pair.altname: symbol_from_name(pair.altname) for pair in pairs} == {p.altname: p.symbol for p in pairs}
