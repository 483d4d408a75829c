"""What the simulator knows, as the database would hold it."""

from collections.abc import Sequence

from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.rest import Refusal
from kraken_history.records import HistoricalTrade
from kraken_history.symbols import Pair

_REFUSAL = Refusal()


class NoLimit:
    """Lets every call pass at once."""

    async def wait_for_turn(self, pair: str) -> None:
        """At once."""

    async def note_refusal(self, pair: str, refusal: Refusal = _REFUSAL) -> float:
        """No pause."""
        return 0.0

    async def note_success(self, pair: str) -> None:
        """Nothing to note."""


async def all_trades(rest: KrakenRest, pair: Pair) -> Sequence[HistoricalTrade]:
    """Every trade that Kraken has of a pair, by id."""
    found: dict[int, HistoricalTrade] = {}
    cursor = 0
    while True:
        page = await rest.fetch_trades_page(pair, cursor)
        before = len(found)
        found |= {trade.id: trade for trade in page.trades}
        if len(found) == before:
            return [found[id_] for id_ in sorted(found)]
        cursor = page.last
