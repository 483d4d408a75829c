"""Our symbols and Kraken's names of the same pair.

One book has up to four names: the key and the ``altname`` that REST uses (``XXBTZUSD``, ``XBTUSD``), the
``wsname`` of the old WebSocket (``XBT/USD``), and the symbol of WebSocket v2 (``BTC/USD``), which is ours
too. :mod:`kraken_history.kraken.pairs` finds a pair by any of them.
"""

from msgspec import Struct

V2_ASSET_NAMES = {"XBT": "BTC", "XDG": "DOGE"}
"""Assets whose name differs between ``wsname`` and WebSocket v2; on either side of the slash."""

CURRENCY = "currency"
TOKENIZED_ASSET = "tokenized_asset"
"""Kraken's class of the base asset of an xStock, such as ``AAPLx/USD``."""


class Pair(Struct, frozen=True):
    """A book that Kraken lists.

    Attributes:
        symbol: Our name, which is WebSocket v2's: ``BTC/USDT``. Its letters are case-sensitive: ``AAPLx/USD``.
        altname: The name that REST takes as ``pair`` and that the downloadable files have: ``XBTUSDT``.
        key: Kraken's key in AssetPairs: ``XXBTZUSD``.
        wsname: Name on the older WebSocket: ``XBT/USDT``.
        status: ``online``, ``cancel_only``, …; empty where Kraken did not say.
        asset_class: Kraken's ``aclass_base``. REST answers for any other class than :data:`CURRENCY` only if it is
            told the class.
    """

    symbol: str
    altname: str
    key: str
    wsname: str
    status: str = ""
    asset_class: str = CURRENCY


DEFAULT_PAIRS = (
    Pair("XRP/USDT", "XRPUSDT", "XRPUSDT", "XRP/USDT"),
    Pair("BTC/USDT", "XBTUSDT", "XBTUSDT", "XBT/USDT"),
    Pair("XRP/BTC", "XRPXBT", "XXRPXXBT", "XRP/XBT"),
    Pair("ETH/USDT", "ETHUSDT", "ETHUSDT", "ETH/USDT"),
    Pair("SOL/USDT", "SOLUSDT", "SOLUSDT", "SOL/USDT"),
)
DEFAULT_SYMBOLS = tuple(pair.symbol for pair in DEFAULT_PAIRS)


def symbol_from_wsname(wsname: str) -> str:
    """``XBT/USDT`` → ``BTC/USDT``: only XBT and XDG differ between the two WebSocket versions."""
    return "/".join(V2_ASSET_NAMES.get(asset, asset) for asset in wsname.split("/"))
