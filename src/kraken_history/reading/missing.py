"""Missing time, for reads that raise if there is any.

Most history is proven by trades without a hole, and then the ledger alone answers. One-minute candles are looked at
only where trades do not cover: reading a year that is proven costs a few milliseconds more than reading it without the
question.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Literal

from msgspec import Struct

from kraken_history.completeness.covered_time import COVERED_BY_TRADES
from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.completeness.longer_cover import find_longer_cover
from kraken_history.database.connections import Connection
from kraken_history.errors import CoverageError
from kraken_history.intervals import Span, checked_interval, checked_range
from kraken_history.reading.candles import require_symbol
from kraken_history.reading.coverage import read_evidence, read_kept
from kraken_history.reading.database import Database
from kraken_history.reading.kinds import CoverageKind, classify_days, ranges_of
from kraken_history.reading.live_edge import GRACE, UNSETTLED, LiveEdge, judge, without
from kraken_history.reading.names import by_any_name
from kraken_history.records import TimeRange

Content = Literal["candles", "trades"]
"""What is read. Where candles are the exchange's, there are no trades, so that time is missing for a read of trades."""

_MOST_LOOKS = 8
"""Maximum number of stretches that are looked at one by one; of more, the time from the first to the last is."""


class Gaps(Struct, frozen=True):
    """What is missing of the time that was asked about.

    Attributes:
        missing: Missing time, oldest first, up to the present.
        dropped: The parts of it that retention has dropped, which cannot be fetched again.
        settled_until: Where unsettled time begins (:mod:`kraken_history.reading.live_edge`), at the latest now; None
            if the time ends before.
        now: The database's clock.
    """

    missing: Sequence[Span]
    dropped: Sequence[Span]
    settled_until: datetime | None
    now: datetime

    def beginning_before(self, moment: datetime) -> "Gaps":
        """The gaps that begin before this moment; there must be one."""
        missing = [span for span in self.missing if span[0] < moment]
        return Gaps(missing, [span for span in self.dropped if span in missing], self.settled_until, self.now)

    def error(self, symbol: str) -> CoverageError:
        """The error to raise if something is missing."""
        gaps, dropped = _ranges(self.missing), _ranges(self.dropped)
        return CoverageError(symbol, gaps, dropped=dropped, is_open=gaps[-1].end >= self.now)


def _ranges(spans: Iterable[Span]) -> list[TimeRange]:
    return [TimeRange(*span) for span in spans]


async def find_gaps(
    database: Database,
    symbol: str,
    span: Span,
    content: Content = "candles",
    *,
    interval: int = 1,
    grace: timedelta = GRACE,
    unsettled: timedelta = UNSETTLED,
    archived: Sequence[Span] = (),
) -> Gaps:
    """What is missing of ``span``, as of one moment. Time in the future is not missing.

    Args:
        archived: Time that is read from an archive, in order. Rows of it that were dropped are not missing.
        interval: Of the candles that are read, in minutes: those without minutes may cover its whole buckets.
        grace: How far other symbols' trades must have gone on past silence that counts as quiet.
        unsettled: Missing time that begins so long ago, or later, is not settled yet instead.

    Raises:
        UnknownSymbol: Nothing is stored for this symbol.
        ServiceUnavailable: The database is unavailable.
    """
    await require_symbol(database, symbol)
    async with database.connection() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = await _find_unproven(connection, symbol, span, content)
            is_wanted = content == "candles" and bool(found.unproven)
            longer = await _find_longer(connection, symbol, interval, span) if is_wanted else []
        # Read after that snapshot: it may lack rows that were dropped meanwhile.
        gone = without([span], await read_kept(connection, span, content))
        guessed = gone if content == "candles" else without([span], await read_kept(connection, span, "candles"))
    dropped = without(gone, archived)
    dropped = without(dropped, longer)
    missing = without(without(found.unproven, without(found.known, guessed)), longer)
    judged = judge(without(missing, dropped), found.edge, grace, unsettled)
    now = found.edge.now
    settled_until = judged.settled_until or (now if now < span[1] else None)  # a trade may be ahead of this clock
    return Gaps(sorted([*judged.gaps, *dropped]), dropped, settled_until, now)


async def _find_longer(connection: Connection, symbol: str, interval: int, span: Span) -> list[Span]:
    """The time that candles without minutes cover, in order, without overlaps."""
    if interval == 1:
        return []
    found = await find_longer_cover(connection, symbol, interval, span)
    return without([span], without([span], sorted(chain.from_iterable(found.values()))))


class _Found(Struct, frozen=True):
    """The time that trades do not prove, and the part of it that is known nevertheless."""

    edge: LiveEdge
    unproven: Sequence[Span]
    known: Sequence[Span]


async def _find_unproven(connection: Connection, symbol: str, span: Span, content: Content) -> _Found:
    holes = await find_hole_spans(connection, symbol, span)
    row = await connection.fetchrow(_UNPROVEN, symbol, *span, [low for low, _ in holes], [high for _, high in holes])
    assert row is not None  # the statement has one row, whatever is stored
    edge = LiveEdge(row["now"], row["known_until"], row["newest_candle"], row["newest_of_all"])
    unproven = [(each.lower, each.upper) for each in row["unproven"]]
    looks = unproven if len(unproven) <= _MOST_LOOKS else [(unproven[0][0], unproven[-1][1])]
    kinds: Sequence[CoverageKind] = ("proven", "exchange", "quiet") if content == "candles" else ("quiet",)
    known = [
        part
        for look in looks
        for part in ranges_of(classify_days(await read_evidence(connection, symbol, look, holes=holes)), kinds)
    ]
    return _Found(edge, unproven, known)


# A single trade covers no time, so the time that the ledger proves ends before the newest trade.
_UNPROVEN = f"""
    SELECT now() AS now,
           greatest(s.newest_timestamp, (
               SELECT max(upper(r)) FROM unnest(s.time_ranges) AS r WHERE lower(r) <= s.newest_timestamp
           )) AS known_until,
           c.newest_timestamp AS newest_candle,
           (SELECT max(newest_timestamp) FROM data_sync_status WHERE data_type = 'trades') AS newest_of_all,
           tstzmultirange(tstzrange($2, greatest($2, least($3, now())))) - (
               coalesce({COVERED_BY_TRADES}, '{{}}') - coalesce((
                   SELECT range_agg(tstzrange(low, high))
                   FROM unnest($4::timestamptz[], $5::timestamptz[]) AS hole (low, high)
               ), '{{}}')
           ) AS unproven
    FROM (SELECT) AS always
    LEFT JOIN data_sync_status s ON s.symbol = $1 AND s.data_type = 'trades'
    LEFT JOIN data_sync_status c ON c.symbol = $1 AND c.data_type = 'candles_1m'
"""  # noqa: S608 — a constant is put in


@by_any_name
async def check_complete(
    database: Database, symbol: str, start: datetime, end: datetime, interval: int = 1
) -> datetime:
    """:func:`require_complete` of candles, for any name of the symbol and any bounds.

    Raises:
        CoverageError: Part of the range is missing.
        UsageError: An argument is not valid.
        UnknownSymbol: Nothing is stored for this symbol.
        ServiceUnavailable: The database is unavailable.
    """
    first, last = checked_range(start, end)
    gaps = await find_gaps(database, symbol, (first, last), interval=checked_interval(interval))
    if gaps.missing:
        raise gaps.error(symbol)
    return max(first, min(last, gaps.settled_until or last))


async def require_complete(
    database: Database,
    symbol: str,
    span: Span,
    content: Content = "candles",
    *,
    interval: int = 1,
    grace: timedelta = GRACE,
    archived: Sequence[Span] = (),
) -> datetime:
    """Check that nothing of ``span`` is missing, and return where it ends: at its end, or where it is not settled.

    Check before reading, because data that is stored meanwhile only adds to what is complete. Candles may be dropped
    meanwhile: check that with :func:`require_kept` after reading.

    Raises:
        CoverageError: Part of it is missing.
    """
    gaps = await find_gaps(database, symbol, span, content, interval=interval, grace=grace, archived=archived)
    if gaps.missing:
        raise gaps.error(symbol)
    return span[1] if gaps.settled_until is None else min(span[1], gaps.settled_until)


async def require_all_complete(
    database: Database, symbols: Sequence[str], spans: Mapping[Content, Span], interval: int = 1
) -> datetime | None:
    """:func:`require_complete` for several symbols; the earliest instant at which one of them is not settled.

    Args:
        interval: Of the candles: a common divisor of all intervals.

    Raises:
        CoverageError: Something is missing. The error names every symbol of which something is.
    """
    errors: dict[str, CoverageError] = {}
    settled: list[datetime] = []
    for symbol in symbols:
        for content, span in spans.items():
            gaps = await find_gaps(database, symbol, span, content, interval=interval)
            if gaps.missing:
                errors.setdefault(symbol, gaps.error(symbol))
            if gaps.settled_until is not None:
                settled.append(gaps.settled_until)
    if errors:
        raise CoverageError.of_all(list(errors.values()))
    return min(settled, default=None)


async def require_kept(
    database: Database,
    symbol: str,
    span: Span,
    content: Content = "candles",
    *,
    interval: int = 1,
    archived: Sequence[Span] = (),
) -> None:
    """Check, after reading, that nothing of ``span`` was dropped meanwhile.

    Raises:
        CoverageError: Something was.
    """
    if span[0] >= span[1]:
        return
    async with database.connection() as connection:
        kept = await read_kept(connection, span, content)
    if kept == [span]:
        return
    gaps = await find_gaps(database, symbol, span, content, interval=interval, archived=archived)
    if gaps.missing:
        raise gaps.error(symbol)
