"""Fetches the exchange's own latest candles of each interval: history at once, before its trades are fetched.

Kraken gives the latest 720 candles of an interval in one call: two years of days, a month of hours, half a day of
minutes. Those of minutes are stored like any candle of the exchange, the others in ``longer_candles``. Asking again is
harmless, and stores what Kraken has corrected.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial

import asyncpg

from kraken_history.completeness.covered_time import cover_minutes
from kraken_history.database.connections import write_again
from kraken_history.intervals import EARLIEST, width_of
from kraken_history.kraken.client import KrakenRest
from kraken_history.records import HistoricalCandle, TimeRange
from kraken_history.runtime import telemetry
from kraken_history.storing.longer_candles import store_longer_candles
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair

FETCHED = (1440, 60, 1, 240, 15, 5, 30)
"""Intervals in minutes, in the order in which they are fetched: those that charts and strategies use most come first.

Kraken's weeks begin on Thursday; ours are made of days. It has no candles of twelve hours; they are made of four hours.
"""

ASKED_EVERY = timedelta(days=1)
"""How often the worker asks again for the candles of a symbol."""

_log = telemetry.get_logger("longer-history")


async def fetch_longer_history(pool: asyncpg.Pool, store: Store, rest: KrakenRest, pair: Pair) -> Mapping[int, int]:
    """Fetch and store the latest closed candles of each interval; return how many were new, by interval.

    Raises:
        KrakenError, ServiceUnavailable, MalformedMessage: As the client raises them. Earlier intervals are stored.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them.
    """
    new: dict[int, int] = {}
    for interval in FETCHED:
        page = await rest.fetch_ohlc_page(pair, EARLIEST, interval)
        telemetry.FETCHED_PAGES.labels(symbol=pair.symbol, work="candles").inc()
        if interval == 1:
            stored = await write_again(partial(store.write, candles=page.candles))
            await cover_minutes(pool, pair.symbol, [candle.timestamp for candle in page.candles])
            new[interval] = stored.new_candles
        else:
            covered = runs_of(page.candles, interval)
            longer = await store_longer_candles(pool, pair.symbol, interval, page.candles, "ohlc", covered=covered)
            new[interval] = longer.new
    _log.info("ohlc_fetched", symbol=pair.symbol, new=sum(new.values()))
    return new


def runs_of(candles: Sequence[HistoricalCandle], interval: int) -> list[TimeRange]:
    """The time of candles that follow each other without a gap. Kraken sends a candle for quiet buckets as well."""
    width = width_of(interval)
    runs: list[TimeRange] = []
    for candle in candles:
        start = candle.timestamp
        if runs and runs[-1].end == start:
            start = runs.pop().start
        runs.append(TimeRange(start, candle.timestamp + width))
    return runs
