"""Reading external indicators."""

from datetime import datetime

from kraken_history.errors import UnknownIndicator
from kraken_history.intervals import checked_range
from kraken_history.reading.database import Database
from kraken_history.records import ExternalIndicator


async def read_indicators(database: Database, name: str, start: datetime, end: datetime) -> list[ExternalIndicator]:
    """The figures of ``[start, end)``, oldest first.

    Raises:
        UnknownIndicator: Nothing is stored under this name.
        InvalidTime, InvalidRange: The range is not valid.
        ServiceUnavailable: The database is unavailable.
    """
    rows = await database.fetch(_INDICATORS, str(name), *checked_range(start, end))
    if not rows:
        known = [row["name"] for row in await database.fetch(STORED_INDICATORS)]
        if name not in known:
            raise UnknownIndicator(name, known)
    return [ExternalIndicator(*row) for row in rows]


_INDICATORS = """
    SELECT timestamp, indicator_name, value, source FROM external_indicators
    WHERE indicator_name = $1 AND timestamp >= $2 AND timestamp < $3 ORDER BY timestamp
"""

STORED_INDICATORS = """
    SELECT indicator_name AS name, count(*) AS figures, min(timestamp) AS oldest, max(timestamp) AS newest,
           (array_agg(source ORDER BY timestamp DESC))[1] AS source
    FROM external_indicators GROUP BY indicator_name ORDER BY indicator_name
"""
"""SQL: the stored indicators, with their extent."""
