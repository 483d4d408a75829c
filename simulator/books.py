"""The books that the simulator trades: their names, decimals and behaviour."""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from math import floor, log10
from zlib import crc32

from msgspec import Struct

from kraken_history.errors import UnknownSymbol
from kraken_history.kraken.pairs import find_symbol
from kraken_history.symbols import (
    CURRENCY,
    DEFAULT_PAIRS,
    DEFAULT_SYMBOLS,
    TOKENIZED_ASSET,
    V2_ASSET_NAMES,
    Pair,
    symbol_from_wsname,
)
from simulator.notation import VOLUME_DECIMALS, fixed, units_of

# Kraken's assets are in capitals, except for the x at the end of an xStock.
_SYMBOL = re.compile(r"[A-Z0-9.]{1,15}[A-Z0-9.x]?/[A-Z0-9.]{1,16}")

_USD_PRICES = {
    "BTC": Decimal(105000),
    "ETH": Decimal(3500),
    "SOL": Decimal(165),
    "XRP": Decimal("2.45"),
    "DOGE": Decimal("0.175"),
    "EUR": Decimal("1.15"),
    "GBP": Decimal("1.31"),
    **dict.fromkeys(("USD", "USDT", "USDC", "DAI"), Decimal(1)),
}
_STOCK_PRICES = {"AAPLx": Decimal("211.5"), "SPYx": Decimal(640), "TSLAx": Decimal(310)}

_CATALOGUE = [f"{base}/{quote}" for base in (*_USD_PRICES, *_STOCK_PRICES) for quote in _USD_PRICES if base != quote]
"""Symbols that are found under any of their names. Any other book must be named as Kraken writes it."""

# pair_decimals as in the recorded AssetPairs.
_PRICE_DECIMALS = {
    "BTC/USDT": 1,
    "BTC/USD": 1,
    "ETH/USDT": 2,
    "ETH/USD": 2,
    "ETH/BTC": 6,
    "SOL/USDT": 2,
    "SOL/USD": 2,
    "XRP/USDT": 5,
    "XRP/USD": 5,
    "XRP/BTC": 8,
    "DOGE/USD": 7,
}

_SHARES = {"BTC/USDT": 40.0, "ETH/USDT": 25.0, "XRP/USDT": 17.0, "SOL/USDT": 15.0, "XRP/BTC": 3.0}

# Assets of Kraken's first years carry a prefix in REST: XXBT, ZUSD. Source: the recorded AssetPairs.
_OLD_COINS = ("XBT", "ETH", "XRP", "LTC", "XLM", "XMR", "ZEC", "ETC")
_OLD_MONEY = ("USD", "EUR", "GBP", "CAD", "JPY")


class Book(Struct, frozen=True):
    """One pair as the simulator trades it.

    Attributes:
        price_decimals: ``pair_decimals``, the number of decimals of a price.
        start_price: The random walk begins near this price and returns to it.
        share: This book's share of all trades, relative to the other books.
        is_thin: The book pauses at times, so that minutes without a trade occur.
    """

    pair: Pair
    price_decimals: int
    start_price: Decimal
    share: float
    is_thin: bool

    @property
    def symbol(self) -> str:
        """Our name, which is WebSocket v2's."""
        return self.pair.symbol

    @property
    def start_ticks(self) -> int:
        """The start price in ticks."""
        return max(units_of(round(self.start_price, self.price_decimals), self.price_decimals), 100)

    def price(self, ticks: int) -> str:
        """A price as WebSocket and OHLC write it."""
        return fixed(ticks, self.price_decimals)

    def padded_price(self, ticks: int) -> str:
        """A price as REST Trades writes it: at least five decimals. Source: the recorded pages."""
        padding = max(5 - self.price_decimals, 0)
        return fixed(ticks * 10**padding, self.price_decimals + padding)

    def asset_pair(self) -> dict[str, object]:
        """This book's entry in AssetPairs, with the fields of the capture of 2026."""
        base, quote = self.pair.wsname.split("/")
        return {
            "altname": self.pair.altname,
            "wsname": self.pair.wsname,
            "aclass_base": self.pair.asset_class,
            "base": _asset_code(base),
            "aclass_quote": "currency",
            "quote": _asset_code(quote),
            "lot": "unit",
            "cost_decimals": max(self.price_decimals, 5),
            "pair_decimals": self.price_decimals,
            "lot_decimals": VOLUME_DECIMALS,
            "lot_multiplier": 1,
            "leverage_buy": [],
            "leverage_sell": [],
            "fees": [],
            "fees_maker": [],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": "0.00005",
            "costmin": "0.5",
            "tick_size": fixed(1, self.price_decimals),
            "status": "online",
            "execution_venue": "international",
        }


def make_books(symbols: Sequence[str] = DEFAULT_SYMBOLS, decimals: Mapping[str, int] | None = None) -> list[Book]:
    """A book for each symbol; pairs that are not among the defaults are made up.

    Args:
        symbols: Any name of a pair whose assets have a known price here; other pairs as Kraken's WebSocket v2 writes
            them. If the part before the slash ends in ``x``, it is a tokenised asset.
        decimals: By symbol, how many decimals its prices need at least; where it has none, they are made up.

    Raises:
        UnknownSymbol: A symbol is not written like this; the error carries it.
    """
    known = {pair.symbol: pair for pair in DEFAULT_PAIRS}
    unique = list(dict.fromkeys(map(_symbol_of, symbols)))
    if not unique:
        raise UnknownSymbol.not_a_name("")
    pairs = [known.get(symbol) or _made_up_pair(symbol) for symbol in unique]
    return [_make_book(pair, rank, (decimals or {}).get(pair.symbol)) for rank, pair in enumerate(pairs)]


def _symbol_of(name: str) -> str:
    symbol = find_symbol(name, _CATALOGUE)
    if symbol is not None:
        return symbol
    if not _SYMBOL.fullmatch(name):
        raise UnknownSymbol(name, f"expected BASE/QUOTE as Kraken writes it, BTC/EUR or AAPLx/USD, got {name!r}")
    return symbol_from_wsname(name)


def pairs_of(books: Iterable[Book]) -> list[Pair]:
    """The names of these books."""
    return [book.pair for book in books]


def _make_book(pair: Pair, rank: int, least_decimals: int | None) -> Book:
    base, quote = pair.symbol.split("/")
    price = _usd_price(base) / _usd_price(quote)
    usual = 2 if pair.asset_class == TOKENIZED_ASSET else min(max(6 - floor(log10(price)), 0), 10)
    decimals = _PRICE_DECIMALS.get(pair.symbol, usual if least_decimals is None else least_decimals)
    decimals = max(decimals, least_decimals or 0)
    return Book(
        pair,
        decimals,
        price,
        share=_SHARES.get(pair.symbol, 20.0 / (rank + 1)),
        is_thin=pair.symbol == "XRP/BTC" or (pair.symbol not in _SHARES and rank >= 3),
    )


def _made_up_pair(symbol: str) -> Pair:
    old_names = {new: old for old, new in V2_ASSET_NAMES.items()}
    base, quote = (old_names.get(asset, asset) for asset in symbol.split("/"))
    is_old = base in _OLD_COINS and quote in (*_OLD_COINS, *_OLD_MONEY)
    key = _asset_code(base) + _asset_code(quote) if is_old else base + quote
    asset_class = TOKENIZED_ASSET if base.endswith("x") else CURRENCY
    return Pair(symbol, base + quote, key, f"{base}/{quote}", "online", asset_class)


def _asset_code(asset: str) -> str:
    if asset in _OLD_COINS or asset == "XDG":
        return "X" + asset
    return "Z" + asset if asset in _OLD_MONEY else asset


def _usd_price(asset: str) -> Decimal:
    known = _USD_PRICES.get(asset) or _STOCK_PRICES.get(asset)
    return known if known is not None else Decimal(crc32(asset.encode()) % 9_900 + 100) / 1000
