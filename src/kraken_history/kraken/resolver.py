"""Finds the pair of a name, and asks Kraken for its pairs if necessary."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from kraken_history.errors import KrakenBusy, MalformedMessage, ServiceUnavailable
from kraken_history.kraken.pairs import PairMap, checked_name, symbol_without_kraken
from kraken_history.symbols import Pair

FetchPairs = Callable[[], Awaitable[Iterable[Pair]]]
"""Fetches all pairs, as :meth:`kraken_history.kraken.client.KrakenRest.fetch_asset_pairs` does, xStocks included."""

CANNOT_BE_ASKED = (KrakenBusy, ServiceUnavailable, MalformedMessage)
"""Errors that say nothing about the name: Kraken did not answer, or its answer could not be decoded."""

ASK_AGAIN_S = 600.0
"""Seconds after an answer before an unknown name makes the resolver ask again: Kraken may list new pairs."""


class Resolver:
    """Kraken's pairs under any of their names: the default five are known, any other needs one request to Kraken.

    Safe to use from many tasks at once: they share one request.
    """

    def __init__(self, fetch_pairs: FetchPairs, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch_pairs = fetch_pairs
        self._clock = clock
        self._known = PairMap()
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()

    def known(self, name: str) -> Pair | None:
        """The pair of a name, among the pairs known so far.

        Raises:
            UnknownSymbol: The name matches several pairs.
        """
        return self._known.get(name)

    async def find(self, name: str) -> Pair:
        """The pair of any of its names.

        Raises:
            UnknownSymbol: The text is not shaped like a name, or Kraken lists no such pair, or several match.
            KrakenBusy, KrakenRefused, ServiceUnavailable, MalformedMessage: Kraken did not give its list of pairs.
        """
        name = checked_name(name)
        pair = self.known(name)
        if pair is None:
            await self._ask(name)
            pair = self._known.find(name)
        return pair

    async def symbol_of(self, name: str) -> str:
        """Our symbol of a name. While Kraken does not answer, it is determined from the letters of ``BASE/QUOTE``.

        Raises:
            As :meth:`find`. If Kraken does not answer, only for a name whose letters are not enough.
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
            # Of two pairs with one symbol, the later one counts.
            self._known = PairMap([*self._known, *await self._fetch_pairs()])
            self._asked_at = self._clock()
