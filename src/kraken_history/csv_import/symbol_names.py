"""Which symbol the files are of: by the name that is given for them, or by their own names."""

import asyncpg

from kraken_history.csv_import.offline_names import symbol_from_name
from kraken_history.csv_import.refusal import CsvError
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import HistoryError, UnknownSymbol
from kraken_history.kraken.pairs import find_symbol, is_symbol, symbol_without_kraken
from kraken_history.kraken.resolver import FetchPairs, Resolver
from kraken_history.symbols import Pair

_HINT = "say what it is, with --symbol BASE/QUOTE"


class SymbolNames:
    """Finds symbols by names, and asks Kraken for its pairs at most once.

    Args:
        fetch_pairs: Asked when a name is of none of the default pairs.

    Attributes:
        note: What a person should know of the symbol that a given name was taken for; empty if Kraken lists it.
    """

    def __init__(self, pool: asyncpg.Pool, fetch_pairs: FetchPairs) -> None:
        self._pool = pool
        self._pairs = Resolver(fetch_pairs)
        self._trouble: HistoryError | None = None
        self.note = ""

    async def of_given(self, name: str) -> str:
        """The symbol of a name that somebody gives for all files.

        If Kraken lists no such pair, as it does not list those it has given up, or if it cannot be asked, the letters
        of ``BASE/QUOTE`` count as they are, unless a stored symbol differs from them in upper and lower case only.

        Raises:
            UnknownSymbol: It is written without a slash, and Kraken lists no such pair or cannot be asked; or its
                letters are those of several pairs.
        """
        try:
            return (await self._find(name)).symbol
        except UnknownSymbol as error:
            if error.known or not is_symbol(name.strip()):
                raise
            doubt = f"Kraken lists no pair {name}"
        except HistoryError as error:
            doubt = f"Kraken could not be asked which pair {name} is ({error})"
        symbol = symbol_without_kraken(name)
        if symbol is None:
            raise UnknownSymbol(name, f"expected BASE/QUOTE, such as BTC/USDT, got {name!r}: {doubt}")
        symbol = find_symbol(symbol, await fetch_stored_symbols(self._pool)) or symbol
        self.note = f"{doubt}: the files count as {symbol}"
        return symbol

    async def of_file(self, file: str, name: str) -> tuple[str, bool]:
        """The symbol of a file's own name, and whether the name was cut apart for it, as Kraken could not be asked.

        Raises:
            CsvError: Kraken lists no such pair; or it cannot be asked, and the name leaves a doubt.
        """
        try:
            return (await self._find(name)).symbol, False
        except UnknownSymbol as error:
            reason = str(error) if error.known else f"Kraken lists no pair {name}"
            raise CsvError(file, None, f"{reason}: {_HINT}") from None
        except HistoryError as error:
            symbol = symbol_from_name(name)
            if symbol is None:
                reason = f"what pair {name} is cannot be looked up ({error}), and its name leaves a doubt"
                raise CsvError(file, None, f"{reason}: {_HINT}, or try again later") from None
            return symbol, True

    async def _find(self, name: str) -> Pair:
        known = self._pairs.known(name)
        if known is not None:
            return known
        if self._trouble is not None:
            raise self._trouble
        try:
            return await self._pairs.find(name)
        except UnknownSymbol:
            raise
        except HistoryError as error:
            self._trouble = error
            raise
