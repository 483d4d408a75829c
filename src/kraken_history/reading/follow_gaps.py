"""What following does about gaps.

``ignore``: candles are given as :mod:`kraken_history.reading.settling` closes them, whether or not trades are missing.

``raise``: before a candle is given, the time since the candle before it, or since the start, is checked up to the
candle's end. If any of it is missing, CoverageError is raised in its place: trades of it are known to be missing and
did not come within the patience, or following would pass over time of which nothing is known. The candles before the
gap are given first. Silence that closed a candle because other symbols were traded counts as quiet. After the error
the iteration is over; follow again, from the end of the gap or once it is filled.

``pad``: in each bucket that closed without a candle, a flat candle at the last close is given, in its order, also
where trades are missing. It is not taken back: if trades of its bucket are stored later, only ``get_candles`` returns
their candle. Before the first known close nothing is made up.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from kraken_history.intervals import Span, width_of
from kraken_history.reading.candles import read_latest_of
from kraken_history.reading.database import Database
from kraken_history.reading.missing import Gaps, find_gaps
from kraken_history.reading.padding import Padding
from kraken_history.records import HistoricalCandle


class Refusal:
    """Refuses candles that may lack trades, or that come after a gap.

    Args:
        grace: As followers take it.
    """

    def __init__(self, interval: int, grace: timedelta) -> None:
        self._width = width_of(interval)
        self._grace = grace

    async def look(self, database: Database, spans: Mapping[str, Span]) -> dict[str, Gaps]:
        """What is missing, by symbol; before the candles are read, since data stored meanwhile only adds to them."""
        return {
            symbol: await find_gaps(database, symbol, span, grace=self._grace, unsettled=timedelta())
            for symbol, span in spans.items()
            if span[0] < span[1]
        }

    def cut(self, gaps: Mapping[str, Gaps], candles: Sequence[HistoricalCandle], cut: datetime) -> datetime:
        """The time before which candles may be given: that of the first gap that has a candle in it or after it.

        Args:
            candles: In order of time.
            cut: The time before which they may be given otherwise.

        Raises:
            CoverageError: No candle is earlier than that one.
        """
        for candle in candles:
            if candle.timestamp >= cut:
                break
            missing = gaps[candle.symbol].missing if candle.symbol in gaps else ()
            if missing and missing[0][0] < candle.timestamp + self._width:
                if candles[0].timestamp == candle.timestamp:
                    raise gaps[candle.symbol].beginning_before(candle.timestamp + self._width).error(candle.symbol)
                return min(cut, candle.timestamp)
        return cut


class FlatCandles:
    """Pads the candles of each symbol, page by page."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._paddings: dict[str, Padding] = {}

    async def read_closes(self, database: Database, spans: Mapping[str, Span]) -> None:
        """Find the close before each of these spans, for symbols of which none is known yet."""
        for symbol, (start, _) in spans.items():
            if symbol not in self._paddings:
                for known in await read_latest_of(database, symbol, self._interval, 1, start):
                    self._paddings[symbol] = Padding(known, start)

    def pad(self, spans: Mapping[str, Span], candles: Sequence[HistoricalCandle]) -> list[HistoricalCandle]:
        """The candles of these spans, and made-up ones in every other bucket, by symbol.

        Args:
            candles: All candles of the spans, of each symbol in order.
        """
        padded: list[HistoricalCandle] = []
        for symbol, (_, end) in spans.items():
            own = [candle for candle in candles if candle.symbol == symbol]
            padding = self._paddings.get(symbol)
            if padding is None and own:
                padding = self._paddings[symbol] = Padding(own[0], own[0].timestamp)
            if padding is not None:
                padded += [*padding.around(own), *padding.until(end)]
        return padded
