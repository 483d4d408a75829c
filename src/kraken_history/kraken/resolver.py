"""Finds the pair of a name, and asks Kraken for its pairs where that is needed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from kraken_history.errors import KrakenBusy, MalformedMessage, ServiceUnavailable
from kraken_history.kraken.pairs import PairMap, checked_name, symbol_without_kraken
from kraken_history.symbols import Pair

FetchPairs = Callable[[], Awaitable[Iterable[Pair]]]
"""Fetches all pairs, as :meth:`kraken_history.kraken.client.KrakenRest.fetch_asset_pairs` does, xStocks included."""

CANNOT_BE_ASKED = (KrakenBusy, ServiceUnavailable, MalformedMessage)
"""The errors that say nothing of a name: Kraken did not answer, or not in a way that can be read."""

ASK_AGAIN_S = 600.0
"""So many seconds after an answer, a name that was not in it is asked for again: Kraken may list new pairs."""


class Resolver:
    """Kraken's pairs under any of their names: the default five at once, any other after asking Kraken, once.

    May be used by many tasks at a time; they ask Kraken together.
    """

    def __init__(self, fetch_pairs: FetchPairs, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch_pairs = fetch_pairs
        self._clock = clock
        self._known = PairMap()
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()

    def known(self, name: str) -> Pair | None:
        """The pair of a name, of those that are known by now.

        Raises:
            UnknownSymbol: The name may mean several pairs.
        """
        return self._known.get(name)

    async def find(self, name: str) -> Pair:
        """The pair of any of its names.

        Raises:
            UnknownSymbol: The text is no name, or Kraken lists no pair of it, or several whose letters it has.
            KrakenBusy, KrakenRefused, ServiceUnavailable, MalformedMessage: Kraken cannot be asked just now.
        """
        name = checked_name(name)
        pair = self.known(name)
        if pair is None:
            await self._ask(name)
            pair = self._known.find(name)
        return pair

    async def symbol_of(self, name: str) -> str:
        """Our symbol of a name. While Kraken cannot be asked, the letters of ``BASE/QUOTE`` count as they are.

        Raises:
            As :meth:`find`; that Kraken cannot be asked, only of a name without a slash.
        """
        try:
            return (await self.find(name)).symbol
        except CANNOT_BE_ASKED:
            symbol = symbol_without_kraken(name)
            if symbol is None:
                raise
            return symbol

    async def _ask(self, name: str) -> None:
        async with self._asking:
            is_fresh = self._asked_at is not None and self._clock() - self._asked_at < ASK_AGAIN_S
            if is_fresh or self.known(name) is not None:
                return
            self._known = PairMap([*self._known, *await self._fetch_pairs()])  # the later of two of a symbol counts
            self._asked_at = self._clock()
