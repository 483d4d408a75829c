"""Finds the pair of a name: our symbol, or any of Kraken's names of it, with a slash or without.

Kraken's names are case-sensitive (``AAPLx/USD``), and a name without a slash can be cut apart in several ways: ``AUSD``
is a quote asset, so ``ADAUSD`` might be ``AD/AUSD``. Therefore a name is never changed or cut apart here. All names of
each known pair are generated, and the given name is compared with them: first with the same case, then ignoring case.
If several pairs match, the name is ambiguous and refused.

Pure: the caller passes the pairs, or the stored symbols. :mod:`kraken_history.kraken.resolver` asks Kraken.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Generic, TypeVar

from kraken_history.errors import UnknownSymbol
from kraken_history.kraken.numbers import check_symbol
from kraken_history.symbols import DEFAULT_PAIRS, V2_ASSET_NAMES, Pair, symbol_from_wsname

Named = TypeVar("Named", Pair, str)

# A name without a slash has at least four letters: a quote asset has three or more.
_CONCATENATED = re.compile(r"[A-Za-z0-9.]{4,32}")

# Kraken lists its oldest assets with a letter before the name: X for coins, Z for currencies. Newer ones have none.
_LETTERED = frozenset(
    """
    XETC XETH XICN XLTC XMLN XNMC XREP XXBT XXDG XXLM XXMR XXRP XXVN XZEC ZAUD ZCAD ZEUR ZGBP ZJPY ZKRW ZUSD
    """.split()  # noqa: SIM905 — a list of strings is four times as long, and no clearer
)
_OLD_NAMES = {new: old for old, new in V2_ASSET_NAMES.items()}


def checked_name(given: str) -> str:
    """The given text without surrounding space, if it is shaped like the name of a pair.

    Raises:
        UnknownSymbol: It is not, so there is no need to ask Kraken.
    """
    name = given.strip() if isinstance(given, str) else ""
    if not (is_symbol(name) or _CONCATENATED.fullmatch(name)):
        raise UnknownSymbol.not_a_name(given)
    return name


def is_symbol(name: str) -> bool:
    """True if the name is shaped like our symbols: ``BASE/QUOTE``. Does not check that the pair exists."""
    try:
        check_symbol(name)
    except ValueError:
        return False
    return True


def is_ours(name: str) -> bool:
    """True if the name is spelled like our symbols: ``BTC/USDT``, but not ``XBT/USDT`` or ``BTCUSDT``."""
    return is_symbol(name) and symbol_from_wsname(name) == name


def spellings(symbol: str) -> list[str]:
    """The other names of a symbol.

    They combine all names of both assets (``BTC``, ``XBT``, ``XXBT``), with a slash and without: ``XXBTZUSD`` for
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
        """Add a pair or symbol: its own names take precedence over all generated names."""
        exact_own, exact_made, folded_own, folded_made = self._ranks
        for names, exact, folded in ((own, exact_own, folded_own), (made, exact_made, folded_made)):
            for name in names:
                exact.setdefault(name, {})[meant] = None
                folded.setdefault(name.casefold(), {})[meant] = None

    def candidates(self, name: str, *, in_any_case: bool = True) -> list[Named]:
        """The matches of the name in the highest rank that has any."""
        written = (name, name, name.casefold(), name.casefold())
        for rank, key in list(zip(self._ranks, written, strict=True))[: 4 if in_any_case else 2]:
            if key in rank:
                return list(rank[key])
        return []


class PairMap:
    """Looks up a pair under any of its names: first with the same case, then ignoring case."""

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
            UnknownSymbol: The name matches several pairs; the message lists them.
        """
        found = self._names.candidates(name.strip())
        if len(found) > 1:
            raise UnknownSymbol.ambiguous(name, [pair.symbol for pair in found])
        return found[0] if found else None

    def find(self, name: str) -> Pair:
        """The pair of a name, if this map holds all pairs that Kraken lists.

        Raises:
            UnknownSymbol: No pair has this name, or several have.
        """
        pair = self.get(checked_name(name))
        if pair is None:
            raise UnknownSymbol.not_listed(name)
        return pair


def find_symbol(name: str, symbols: Iterable[str]) -> str | None:
    """The symbol that a name stands for; None if it matches none of them. Kraken is not asked.

    Raises:
        UnknownSymbol: The text is not shaped like a name, or matches several of the symbols.
    """
    name = checked_name(name)
    found = _index_of(tuple(symbols)).candidates(name)
    if len(found) > 1:
        raise UnknownSymbol.ambiguous(name, found)
    return found[0] if found else None


@lru_cache(maxsize=4)  # one set of symbols at a time is usual: those that the database holds
def _index_of(symbols: tuple[str, ...]) -> _Names[str]:
    names: _Names[str] = _Names()
    for symbol in symbols:
        names.add(symbol, [symbol], spellings(symbol))
    return names


def find_stored(name: str, stored: Sequence[str]) -> str:
    """The stored symbol that a name stands for.

    Raises:
        UnknownSymbol: It matches none of them, or several, or the text is not shaped like a name.
    """
    symbol = find_symbol(name, stored)
    if symbol is None:
        raise UnknownSymbol.not_stored(name, stored)
    return symbol


def symbol_without_kraken(name: str) -> str | None:
    """Our symbol of a name, as far as it can be determined without asking Kraken; None for ``XBTEUR``.

    The default pairs are known under all their names. Any other ``BASE/QUOTE`` keeps its letters, except that Kraken's
    old asset names are replaced, such as XBT and XDG. Does not check that Kraken lists the pair.

    Raises:
        UnknownSymbol: The text is not shaped like a name.
    """
    name = checked_name(name)
    pair = _DEFAULT.get(name)
    if pair is not None:
        return pair.symbol
    return _without_letters(name) if is_symbol(name) else None


def _without_letters(name: str) -> str:
    """``XXBT/ZUSD`` → ``BTC/USD``: replaces the assets of Kraken's keys by their present names."""
    return symbol_from_wsname("/".join(asset[1:] if asset in _LETTERED else asset for asset in name.split("/")))


_DEFAULT = PairMap()
