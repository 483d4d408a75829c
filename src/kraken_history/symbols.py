"""Our symbols and Kraken's names of the same pair.

One book has up to four names: the key and the ``altname`` that REST uses (``XXBTZUSD``, ``XBTUSD``), the
``wsname`` of the old WebSocket (``XBT/USD``), and the symbol of WebSocket v2 (``BTC/USD``), which is ours
too. They are never derived by cutting a name apart (``AUSD`` is a quote asset): AssetPairs lists them.
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from kraken_history.errors import UnknownSymbol

V2_ASSET_NAMES = {"XBT": "BTC", "XDG": "DOGE"}
"""Assets whose name differs between ``wsname`` and WebSocket v2; on either side of the slash."""


class Pair(Struct, frozen=True):
    """A book that Kraken lists.

    Attributes:
        symbol: Our name, which is WebSocket v2's: ``BTC/USDT``.
        altname: What REST takes as ``pair`` and what the downloadable files are named after: ``XBTUSDT``.
        key: Kraken's key in AssetPairs: ``XXBTZUSD``.
        wsname: Name on the older WebSocket: ``XBT/USDT``.
        status: ``online``, ``cancel_only``, …; empty where Kraken did not say.
    """

    symbol: str
    altname: str
    key: str
    wsname: str
    status: str = ""


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


def our_symbol(name: str) -> str | None:
    """``XBT/USDT`` → ``BTC/USDT``, as far as it can be told without asking Kraken: None for ``XBTEUR``.

    Whether Kraken lists such a pair is another question.
    """
    pairs = PairMap()
    if name in pairs:
        return pairs.find(name).symbol
    return symbol_from_wsname(name.strip().upper()) if "/" in name else None


class PairMap:
    """Looks a pair up under any of its names, upper or lower case."""

    def __init__(self, pairs: Iterable[Pair] = DEFAULT_PAIRS) -> None:
        self._pairs = {pair.symbol: pair for pair in pairs}
        self._by_name = {
            name.upper(): pair
            for pair in self._pairs.values()
            for name in (pair.wsname, pair.key, pair.altname, pair.symbol)
        }

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, name: str) -> bool:
        return name.strip().upper() in self._by_name

    def find(self, name: str) -> Pair:
        """The pair of any of its four names.

        Raises:
            UnknownSymbol: No pair has this name; carries it.
        """
        try:
            return self._by_name[name.strip().upper()]
        except KeyError:
            raise UnknownSymbol(name) from None
