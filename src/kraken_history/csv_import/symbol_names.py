"""Finds the symbol of files, by the name that is given for them or by their own names."""

import asyncpg

from kraken_history.csv_import.offline_names import symbol_from_name
from kraken_history.csv_import.refusal import CsvError
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import HistoryError, UnknownSymbol
from kraken_history.kraken.pairs import find_symbol, is_symbol, symbol_without_kraken
from kraken_history.kraken.resolver import FetchPairs, Resolver
from kraken_history.symbols import Pair

_HINT = "name the pair with --symbol BASE/QUOTE"


class SymbolNames:
    """Finds symbols by names, and asks Kraken for its pairs at most once.

    Args:
        fetch_pairs: Called when a name belongs to none of the default pairs.

    Attributes:
        note: A notice about the symbol used for a given name; empty if Kraken lists it.
    """

    def __init__(self, pool: asyncpg.Pool, fetch_pairs: FetchPairs) -> None:
        self._pool = pool
        self._pairs = Resolver(fetch_pairs)
        self._trouble: HistoryError | None = None
        self.note = ""

    async def of_given(self, name: str) -> str:
        """The symbol of a name that is given for all files.

        If Kraken does not list the pair, for example after a delisting, or if Kraken cannot be asked, ``BASE/QUOTE``
        counts as written. If a stored symbol differs only in upper and lower case, the stored one counts.

        Raises:
            UnknownSymbol: The name has no slash, and Kraken lists no such pair or cannot be asked; or the name
                matches several pairs.
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
        self.note = f"{doubt}: importing the files as {symbol}"
        return symbol

    async def of_file(self, file: str, name: str) -> tuple[str, bool]:
        """The symbol of a file's own name, and whether the name alone decided, because Kraken could not be asked.

        Raises:
            CsvError: Kraken lists no such pair; or it cannot be asked, and the name alone does not determine the pair.
        """
        try:
            return (await self._find(name)).symbol, False
        except UnknownSymbol as error:
            reason = str(error) if error.known else f"Kraken lists no pair {name}"
            raise CsvError(file, None, f"{reason}: {_HINT}") from None
        except HistoryError as error:
            symbol = symbol_without_kraken(name) if "/" in name else symbol_from_name(name)
            if symbol is None:
                reason = f"Kraken could not be asked which pair {name} is ({error}), and the name alone does not say it"
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
