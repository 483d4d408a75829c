"""Reading external indicators."""

from datetime import datetime

from kraken_history.intervals import checked_range
from kraken_history.reading.database import Database
from kraken_history.records import ExternalIndicator


async def read_indicators(database: Database, name: str, start: datetime, end: datetime) -> list[ExternalIndicator]:
    """The figures of ``[start, end)``, oldest first; an empty list if the name is not stored.

    Raises:
        InvalidTime, InvalidRange: The range is not valid.
        ServiceUnavailable: The database is unavailable.
    """
    rows = await database.fetch(_INDICATORS, str(name), *checked_range(start, end))
    return [ExternalIndicator(*row) for row in rows]


_INDICATORS = """
    SELECT timestamp, indicator_name, value, source FROM external_indicators
    WHERE indicator_name = $1 AND timestamp >= $2 AND timestamp < $3 ORDER BY timestamp
"""
