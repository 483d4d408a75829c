"""How much of a long history is covered for candles of a longer interval, by day and in total.

Where the exchange's hours and days are stored without their minutes, time that is missing for minutes is covered for
candles that can be made of them (:mod:`~kraken_history.completeness.longer_cover`).
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import chain

import msgspec

from kraken_history.completeness.hole_search import DAY, split
from kraken_history.completeness.longer_cover import data_type_of, find_longer_cover, serving
from kraken_history.database.connections import Connection
from kraken_history.intervals import Span, bucket_start
from kraken_history.reading.live_edge import without
from kraken_history.reading.measured_coverage import MeasuredCoverage, measure_coverage
from kraken_history.records import TimeRange


async def measure_coverage_at(
    connection: Connection, symbol: str, start: datetime, end: datetime, interval: int
) -> MeasuredCoverage:
    """:func:`~kraken_history.reading.measured_coverage.measure_coverage` for candles of this interval, in minutes."""
    measured = await measure_coverage(connection, symbol, start, end)
    if interval == 1 or not measured.missing:
        return measured
    cover = await find_longer_cover(connection, symbol, interval, (start, end))
    return with_exchange(measured, sorted(chain.from_iterable(cover.values())))


def with_exchange(measured: MeasuredCoverage, covered: Sequence[Span]) -> MeasuredCoverage:
    """The coverage, with missing time as the exchange's where ``covered`` holds it.

    Args:
        covered: In order of their starts, in whole seconds.
    """
    missing = [(each.start, each.end) for each in measured.missing]
    left = [part for each in missing for part in without([each], covered)]  # one by one: some touch each other
    days = {day: dict(kinds) for day, kinds in measured.days.items()}
    for low, high in split(without(missing, left), DAY):
        seconds = int((high - low).total_seconds())
        days[bucket_start(low, DAY)]["missing"] -= seconds
        days[bucket_start(low, DAY)]["exchange"] += seconds
    dropped = without([(each.start, each.end) for each in measured.dropped], covered)
    return msgspec.structs.replace(
        measured,
        days=days,
        missing=[TimeRange(*each) for each in left],
        dropped=[TimeRange(*each) for each in dropped],
    )


async def find_longer_since(connection: Connection, symbol: str, interval: int) -> datetime | None:
    """From when on candles without minutes can serve an interval; None if there are none."""
    since: datetime | None = await connection.fetchval(
        "SELECT min(lower(time_ranges)) FROM data_sync_status WHERE symbol = $1 AND data_type = ANY ($2)",
        symbol,
        [data_type_of(each) for each in serving(interval)],
    )
    return since
