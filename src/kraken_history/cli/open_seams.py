"""What is missing beside imported data, and the command that closes it: the end of ``import-csv``."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from kraken_history.cli.missing_time import ONE_BY_ONE, Gap, are_several, explain, lasting
from kraken_history.completeness.gap_length import MIN_GAP
from kraken_history.csv_import import Imported
from kraken_history.database.connections import connect
from kraken_history.reading.measured_coverage import find_missing
from kraken_history.reading.stored_extent import read_dropped, read_extents
from kraken_history.records import MINUTE, TimeRange

_MOST_SYMBOLS = 20  # an archive has a thousand
_MOST_SEAMS = 3  # per symbol


async def find_seams(database_url: str, imported: Iterable[object]) -> dict[str, list[Gap]]:
    """By symbol, the missing ranges that touch what was imported, up to now; symbols without are left out.

    Args:
        imported: Outcomes of an import. Only :class:`Imported` counts, and of these the first 20 symbols.
    """
    ranges: dict[str, TimeRange] = {}
    for each in imported:
        if isinstance(each, Imported) and each.interval_minutes == 1:
            known = ranges.get(each.symbol, TimeRange(each.start, each.end))
            ranges[each.symbol] = TimeRange(min(known.start, each.start), max(known.end, each.end))
    if not ranges:
        return {}
    connection = await connect(database_url)
    try:
        extents = await read_extents(connection)
        dropped = (await read_dropped(connection)).get("candles", [])
        now = datetime.now(UTC).replace(microsecond=0)
        seams: dict[str, list[Gap]] = {}
        for symbol in sorted(ranges.keys() & extents.keys())[:_MOST_SYMBOLS]:
            since = extents[symbol].since.replace(microsecond=0)
            missing = await find_missing(connection, symbol, since, now) if since < now else []
            gaps = explain(symbol, _touching(missing, ranges[symbol]), dropped, now=now)
            if found := [gap for gap in gaps if gap.why == "missing"]:
                seams[symbol] = found
        return seams
    finally:
        await connection.close()


def _touching(missing: Sequence[TimeRange], imported: TimeRange) -> list[TimeRange]:
    low, high = imported.start - MINUTE, imported.end + MINUTE
    return [each for each in missing if each.duration >= MIN_GAP and each.start <= high and each.end >= low]


def report_seams(seams: Mapping[str, Sequence[Gap]]) -> None:
    """Print each open seam, with its command, on standard error."""
    for symbol, gaps in seams.items():
        for gap in gaps[:_MOST_SEAMS]:
            span = f"from {gap.start:%Y-%m-%d %H:%M}Z to {gap.end:%Y-%m-%d %H:%M}Z"
            length = lasting(gap.duration.total_seconds())
            sys.stderr.write(f"{symbol}: nothing is known {span} ({length}): fetch it with\n    {gap.command}\n")
        if are_several(gaps):
            sys.stderr.write(f"{symbol}: {ONE_BY_ONE}\n")
        if len(gaps) > _MOST_SEAMS:
            sys.stderr.write(f"{symbol}: {len(gaps) - _MOST_SEAMS:,} more gaps: see kraken-history coverage {symbol}\n")
    if len(seams) == _MOST_SYMBOLS:
        sys.stderr.write("kraken-history coverage shows the gaps of all symbols\n")
