"""Covered time, as recorded in ``data_sync_status``: every read and write of its ``time_ranges`` for gaps.

A symbol's trades are covered between the oldest and the newest stored trade, except for the holes in their ids, and
where Kraken was asked and had no other trade. Its candles are covered where its trades are, and in the minutes
for which Kraken returned its own candles, including quiet minutes.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.completeness.gap_length import MIN_GAP
from kraken_history.completeness.status_rows import update_row
from kraken_history.database.connections import Connection
from kraken_history.records import DataGap, TimeRange, floor_minute

# A single trade covers no time: others may share its instant. The columns are those of data_sync_status AS s.
_BETWEEN_TRADES = """
    CASE WHEN s.newest_timestamp IS NULL THEN '{}'::tstzmultirange
    ELSE tstzmultirange(tstzrange(s.oldest_timestamp, s.newest_timestamp)) END"""

COVERED_BY_TRADES = f"(s.time_ranges + {_BETWEEN_TRADES})"
"""SQL: the time that the trades of ``data_sync_status AS s`` cover, ignoring holes in their ids, as a multirange."""


class Uncovered(Struct, frozen=True):
    """The parts of a range that a symbol's trades do not cover.

    Attributes:
        last_id: The newest stored trade; None if there is none.
        newest: Time of that trade.
    """

    symbol: str
    last_id: int | None
    newest: datetime | None
    stretches: Sequence[TimeRange]

    def lasting(self, shortest: timedelta, *, live_id: int | None, now: datetime) -> list[TimeRange]:
        """The stretches of at least the given length.

        Args:
            live_id: The newest trade id that a connected feed has received. If it is stored, the time since the
                newest trade is not a gap, however long nobody trades.
        """
        is_live = live_id is not None and self.last_id is not None and self.last_id >= live_id
        wanted = self._before_the_newest(now) if is_live else self.stretches
        return [stretch for stretch in wanted if stretch.duration >= shortest]

    def _before_the_newest(self, now: datetime) -> list[TimeRange]:
        """The stretches, without the time since the newest trade."""
        ends = [(each, self.newest if self.newest and each.end == now else each.end) for each in self.stretches]
        return [TimeRange(each.start, end) for each, end in ends if each.start < end]


async def find_uncovered(
    pool: asyncpg.Pool | Connection, symbols: Sequence[str], start: datetime, end: datetime
) -> list[Uncovered]:
    """For each symbol, the time between ``start`` and ``end`` that is not covered, ignoring holes in the ids."""
    return [
        Uncovered(
            row["symbol"],
            row["last_id"],
            row["newest"],
            [TimeRange(each.lower, each.upper) for each in row["uncovered"]],
        )
        for row in await pool.fetch(_UNCOVERED, list(symbols), start, end)
    ]


async def find_uncovered_time(
    pool: asyncpg.Pool | Connection, wanted_days: Mapping[str, int], *, live_ids: Mapping[str, int], now: datetime
) -> dict[str, timedelta]:
    """By symbol, the time of the wanted days that is not covered, which gap filling must still request from Kraken.

    Ignores holes in the ids, and stretches too short for gap filling.
    """
    found = dict.fromkeys(wanted_days, timedelta())
    for days in set(wanted_days.values()):
        symbols = [symbol for symbol, each in wanted_days.items() if each == days]
        for uncovered in await find_uncovered(pool, symbols, now - timedelta(days=days), now):
            stretches = uncovered.lasting(MIN_GAP, live_id=live_ids.get(uncovered.symbol), now=now)
            found[uncovered.symbol] = sum((stretch.duration for stretch in stretches), timedelta())
    return found


async def last_known_before(pool: asyncpg.Pool, symbol: str, moment: datetime) -> datetime | None:
    """Time of the newest stored trade, if all time between it and ``moment`` is covered.

    A page that begins there must show that trade. An answer without it proves nothing about the time after it.
    """
    known: datetime | None = await pool.fetchval(
        """
        SELECT newest_timestamp FROM data_sync_status
        WHERE symbol = $1 AND data_type = 'trades' AND newest_timestamp <= $2
          AND (newest_timestamp = $2 OR time_ranges @> tstzrange(newest_timestamp, $2))
        """,
        symbol,
        moment,
    )
    return known


async def cover(connection: asyncpg.Pool | Connection, symbol: str, covered: TimeRange) -> None:
    """Record this range as covered: every trade in it is stored, or its id is known to be missing.

    The time between the oldest and the newest trade is covered anyway and is not recorded, so that the ranges of a
    symbol stay few however often its history is fetched.
    """
    await update_row(connection, symbol, "trades", _COVER_TRADES, covered.start, covered.end)


async def cover_minutes(pool: asyncpg.Pool, symbol: str, minutes: Sequence[datetime]) -> None:
    """Record these minutes as covered: Kraken's candles of them are stored, or nobody traded."""
    if minutes:
        await update_row(pool, symbol, "candles_1m", _COVER_MINUTES, list(minutes))


async def cover_candles(connection: Connection, symbol: str, covered: TimeRange) -> None:
    """Record this range as covered: each minute in it has its candle, or nobody traded."""
    if not await connection.fetchval(_ARE_MINUTES_COVERED, symbol, covered.start, covered.end):
        await update_row(connection, symbol, "candles_1m", _COVER_CANDLES, covered.start, covered.end)


async def are_minutes_covered(pool: asyncpg.Pool, gap: DataGap) -> bool:
    """True if :func:`cover_minutes` has recorded all closed minutes of the gap."""
    covered: bool | None = await pool.fetchval(
        _ARE_MINUTES_COVERED, gap.symbol, floor_minute(gap.start_time), floor_minute(gap.end_time)
    )
    return bool(covered)


_COVER_TRADES = (
    f"time_ranges = s.time_ranges + tstzmultirange(tstzrange($3, $4)) - {_BETWEEN_TRADES}, last_sync_at = now()"
)

_COVER_MINUTES = """
    time_ranges = s.time_ranges + (
        SELECT range_agg(tstzrange(minute, minute + interval '1 minute')) FROM unnest($3::timestamptz[]) AS minute
    ), last_sync_at = now()
"""

_COVER_CANDLES = "time_ranges = s.time_ranges + tstzmultirange(tstzrange($3, $4)), last_sync_at = now()"

_ARE_MINUTES_COVERED = """
    SELECT time_ranges @> tstzrange($2, $3) FROM data_sync_status
    WHERE symbol = $1 AND data_type = 'candles_1m' AND generation = newest_generation($1, 'candles_1m')
"""

_UNCOVERED = f"""
    SELECT w.symbol, s.highest_id AS last_id, s.newest_timestamp AS newest,
           tstzmultirange(tstzrange($2, $3)) - coalesce({COVERED_BY_TRADES}, '{{}}') AS uncovered
    FROM unnest($1::text[]) AS w (symbol)
    LEFT JOIN data_sync_status s ON s.symbol = w.symbol AND s.data_type = 'trades'
"""  # noqa: S608 — a constant of this module is put in
