"""Finds the pair that a name means: our symbol, any of Kraken's names of it, with a slash or without.

Kraken's names are case-sensitive (``AAPLx/USD``), and a name without a slash can be cut apart in several ways: ``AUSD``
is a quote asset, so ``ADAUSD`` might be ``AD/AUSD``. So a name is never changed or cut apart here. The names of each
known pair are made, and the given name is compared with them: letter by letter first, and in any case only if that
leaves one pair.

Pure: the pairs, or the symbols that the database holds, are given. :mod:`kraken_history.kraken.resolver` asks Kraken.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Generic, TypeVar

from kraken_history.errors import UnknownSymbol
from kraken_history.kraken.numbers import check_symbol
from kraken_history.symbols import DEFAULT_PAIRS, V2_ASSET_NAMES, Pair, symbol_from_wsname

Named = TypeVar("Named", Pair, str)

# A name without a slash has at least four letters: a quote asset has three or more.
_CONCATENATED = re.compile(r"[A-Za-z0-9.]{4,32}")

# Kraken's oldest assets are listed with a letter before their names, X for coins and Z for money; no new ones are.
_LETTERED = frozenset(
    """
    XETC XETH XICN XLTC XMLN XNMC XREP XXBT XXDG XXLM XXMR XXRP XXVN XZEC ZAUD ZCAD ZEUR ZGBP ZJPY ZKRW ZUSD
    """.split()  # noqa: SIM905 — a list of strings is four times as long, and no clearer
)
_OLD_NAMES = {new: old for old, new in V2_ASSET_NAMES.items()}


def checked_name(given: str) -> str:
    """The given text without space around it, if it can be a name of a pair.

    Raises:
        UnknownSymbol: It cannot; nobody needs to be asked.
    """
    name = given.strip() if isinstance(given, str) else ""
    if not (is_symbol(name) or _CONCATENATED.fullmatch(name)):
        raise UnknownSymbol.not_a_name(given)
    return name


def is_symbol(name: str) -> bool:
    """True if the name is written as our symbols are: ``BASE/QUOTE``. Whether there is such a pair is not asked."""
    try:
        check_symbol(name)
    except ValueError:
        return False
    return True


def is_ours(name: str) -> bool:
    """True if a symbol of ours can be written so: ``BTC/USDT``, but not ``XBT/USDT`` or ``BTCUSDT``."""
    return is_symbol(name) and symbol_from_wsname(name) == name


def spellings(symbol: str) -> list[str]:
    """The names that may be written for a symbol, besides the symbol itself.

    Each asset in each of its names (``BTC``, ``XBT``, ``XXBT``), with a slash and without: ``XXBTZUSD`` for
    ``BTC/USD``.
    """
    assets = [_names_of_asset(asset) for asset in symbol.split("/")]
    names = [separator.join(each) for separator in ("/", "") for each in product(*assets)]
    return [name for name in names if name != symbol]


def _names_of_asset(asset: str) -> list[str]:
    names = [asset, *([_OLD_NAMES[asset]] if asset in _OLD_NAMES else [])]
    return [*names, *(f"{letter}{names[-1]}" for letter in "XZ" if f"{letter}{names[-1]}" in _LETTERED)]


class _Names(Generic[Named]):
    """An index of names, in ranks: a name of a higher rank hides the same name of a lower one."""

    def __init__(self) -> None:
        self._ranks: tuple[dict[str, dict[Named, None]], ...] = ({}, {}, {}, {})

    def add(self, meant: Named, own: Iterable[str], made: Iterable[str]) -> None:
        """Note its own names, which go before all names that were made of it."""
        exact_own, exact_made, folded_own, folded_made = self._ranks
        for names, exact, folded in ((own, exact_own, folded_own), (made, exact_made, folded_made)):
            for name in names:
                exact.setdefault(name, {})[meant] = None
                folded.setdefault(name.casefold(), {})[meant] = None

    def candidates(self, name: str, *, in_any_case: bool = True) -> list[Named]:
        """Those that the name may mean, of the best rank that has any."""
        written = (name, name, name.casefold(), name.casefold())
        for rank, key in list(zip(self._ranks, written, strict=True))[: 4 if in_any_case else 2]:
            if key in rank:
                return list(rank[key])
        return []


class PairMap:
    """Looks a pair up under any of its names: letter by letter, then in upper or lower case."""

    def __init__(self, pairs: Iterable[Pair] = DEFAULT_PAIRS) -> None:
        self._pairs = {pair.symbol: pair for pair in pairs}
        self._names: _Names[Pair] = _Names()
        for pair in self._pairs.values():
            own = (pair.symbol, pair.wsname, pair.altname, pair.key)
            self._names.add(pair, own, spellings(pair.symbol))

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, name: str) -> bool:
        return bool(self._names.candidates(name.strip()))

    def get(self, name: str) -> Pair | None:
        """The pair of a name; None if no pair has it.

        Raises:
            UnknownSymbol: The name may mean several pairs; names them.
        """
        found = self._names.candidates(name.strip())
        if len(found) > 1:
            raise UnknownSymbol.ambiguous(name, [pair.symbol for pair in found])
        return found[0] if found else None

    def find(self, name: str) -> Pair:
        """The pair of a name, where these pairs are all that Kraken lists.

        Raises:
            UnknownSymbol: No pair has this name, or several have.
        """
        pair = self.get(checked_name(name))
        if pair is None:
            raise UnknownSymbol.not_listed(name)
        return pair


def find_symbol(name: str, symbols: Iterable[str]) -> str | None:
    """Which of some symbols a name means; None if it means none of them. Kraken is not asked.

    Raises:
        UnknownSymbol: The text is no name, or may mean several of the symbols.
    """
    name = checked_name(name)
    names: _Names[str] = _Names()
    for symbol in symbols:
        names.add(symbol, [symbol], spellings(symbol))
    found = names.candidates(name)
    if len(found) > 1:
        raise UnknownSymbol.ambiguous(name, found)
    return found[0] if found else None


def find_stored(name: str, stored: Sequence[str]) -> str:
    """Which of the symbols that the database holds a name means.

    Raises:
        UnknownSymbol: None of them, or several; or the text is no name.
    """
    symbol = find_symbol(name, stored)
    if symbol is None:
        raise UnknownSymbol.not_stored(name, stored)
    return symbol


def symbol_without_kraken(name: str) -> str | None:
    """Our symbol of a name as far as it can be told without asking anybody; None for ``XBTEUR``.

    The default pairs are known under all their names. Of any other ``BASE/QUOTE`` the letters stay as they are,
    but for XBT and XDG, which have other names here. Whether Kraken lists such a pair is another question.

    Raises:
        UnknownSymbol: The text is no name.
    """
    name = checked_name(name)
    pair = _DEFAULT.get(name)
    if pair is not None:
        return pair.symbol
    return _without_letters(name) if is_symbol(name) else None


def _without_letters(name: str) -> str:
    """``XXBT/ZUSD`` → ``BTC/USD``: the assets of Kraken's keys under their present names."""
    return symbol_from_wsname("/".join(asset[1:] if asset in _LETTERED else asset for asset in name.split("/")))


_DEFAULT = PairMap()
