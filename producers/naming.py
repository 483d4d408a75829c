"""Which symbols the names in SYMBOLS mean, by the list of symbols that the WebSocket gives. No I/O, no clock."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from kraken_history.errors import UnknownSymbol
from kraken_history.kraken.pairs import find_symbol, is_symbol
from kraken_history.symbols import DEFAULT_SYMBOLS


class Found(Struct, frozen=True):
    """What a list of symbols said of the names that were looked up in it.

    Attributes:
        symbols: By name, the symbol that it means.
        unknown: By name, why it means none.
    """

    symbols: Mapping[str, str]
    unknown: Mapping[str, str]


class Naming:
    """The symbols to subscribe, and the names that are to be looked up.

    A name that is written ``BASE/QUOTE`` is subscribed letter by letter; only if Kraken refuses it, it is looked up.
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
        """The names that are to be looked up."""
        return list(self._open)

    def doubt(self, refused: Iterable[str]) -> None:
        """Note symbols that Kraken refused: their letters may be of the wrong case."""
        self._open |= {name: None for name in refused if name in self._symbols and name not in DEFAULT_SYMBOLS}

    def settle(self, listed: Sequence[str]) -> Found:
        """Look the open names up among all symbols that there are; none is open after it."""
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
