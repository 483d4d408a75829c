"""Finds the symbols of the names in ``SYMBOLS``, in the list of symbols from the WebSocket. No I/O, no clock."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from kraken_history.errors import UnknownSymbol
from kraken_history.kraken.pairs import find_symbol, is_symbol
from kraken_history.symbols import DEFAULT_SYMBOLS


class Found(Struct, frozen=True):
    """The result of looking up names in a list of symbols.

    Attributes:
        symbols: Name → its symbol.
        unknown: Name → why no symbol was found.
    """

    symbols: Mapping[str, str]
    unknown: Mapping[str, str]


class Naming:
    """The symbols to subscribe, and the names to look up.

    A name written ``BASE/QUOTE`` is subscribed as it is. If Kraken refuses it, it is looked up.
    Any other name is looked up first.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._symbols = {name: name if is_symbol(name) else None for name in names}
        self._open = {name: None for name, symbol in self._symbols.items() if symbol is None}

    @property
    def symbols(self) -> list[str]:
        """The symbols to subscribe, each once, in the order of their names."""
        return list(dict.fromkeys(symbol for symbol in self._symbols.values() if symbol is not None))

    @property
    def unsettled(self) -> list[str]:
        """The open names, which must be looked up."""
        return list(self._open)

    def doubt(self, refused: Iterable[str]) -> None:
        """Record symbols that Kraken refused as open: their letters may be in the wrong case."""
        self._open |= {name: None for name in refused if name in self._symbols and name not in DEFAULT_SYMBOLS}

    def settle(self, listed: Sequence[str]) -> Found:
        """Look up the open names in the list of all symbols. Afterwards no name is open."""
        symbols: dict[str, str] = {}
        unknown: dict[str, str] = {}
        for name in self._open:
            try:
                symbol = find_symbol(name, listed)
            except UnknownSymbol as error:
                unknown[name] = str(error)
                continue
            if symbol is None:
                unknown[name] = "Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT"
            else:
                symbols[name] = symbol
        self._symbols |= symbols
        self._open = {}
        return Found(symbols, unknown)
