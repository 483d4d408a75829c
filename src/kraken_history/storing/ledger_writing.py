"""The ledger's part of a write: locks the symbols, looks up which ids are held, and adds the new ones.

Every write of trades or candles first locks the ledger of its symbols, until the end of the transaction. It reads and
writes only the rows that its own ids touch, so its cost does not grow with the number of missing ids elsewhere.
"""

from collections.abc import Mapping, Sequence

import asyncpg
from msgspec import Struct

from kraken_history.completeness.status_rows import ONE_WRITE, lock_keys, open_rows
from kraken_history.completeness.unheld import Run, Unheld, extended, held_within, runs_of
from kraken_history.completeness.unheld_rows import remove_absent, replace_unheld
from kraken_history.database.connections import Connection
from kraken_history.leaps import KnownTrade
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade

MOST_HOLES_REPORTED = 100
"""Maximum number of missing ranges that a write reports per symbol, newest first.

The worker's sweep reads the others.
"""


class Held(Struct, frozen=True):
    """What a symbol's ledger holds.

    Attributes:
        ids: Those of the offered ids that it holds.
        ends: Its lowest and its highest id; None if it holds none.
        unheld: The runs of unheld ids, between these two, that the offered ids touch.
        has_unheld: True if any id between the two is not held.
        touches_absent: True if one of the offered ids is absent.
        lowest, highest: The trades at the ends; their times may be off by as much as times and ids differ in order.
    """

    ids: IdRanges
    ends: Run | None
    unheld: Sequence[Unheld]
    has_unheld: bool
    touches_absent: bool
    lowest: KnownTrade | None
    highest: KnownTrade | None


async def lock_symbol(connection: Connection, symbol: str) -> None:
    """Make all other writers of a symbol's trades and candles wait until the end of the transaction."""
    await lock_keys(connection, [symbol])


async def lock_ledger(
    connection: Connection, symbols: list[str], by_symbol: Mapping[str, Sequence[HistoricalTrade]]
) -> dict[str, Held]:
    """Lock the symbols until the end of the transaction; return what the ledgers hold of those with trades."""
    await lock_keys(connection, symbols)
    return await read_held(connection, {s: IdRanges.of(trade.id for trade in by_symbol[s]) for s in by_symbol})


async def read_held(connection: Connection, offered: Mapping[str, IdRanges]) -> dict[str, Held]:
    """What the ledgers hold of these ids. The symbols must be locked."""
    if not offered:
        return {}
    stops = [ids.ranges[-1][1] if ids else 0 for ids in offered.values()]
    ends = await connection.fetch(_READ_ENDS, list(offered), stops)
    if lost := offered.keys() - {row["symbol"] for row in ends}:
        await open_rows(connection, list(lost), "trades")
        ends = await connection.fetch(_READ_ENDS, list(offered), stops)
    inside = {row["symbol"]: offered[row["symbol"]] for row in ends if _may_touch(row, offered[row["symbol"]])}
    unheld, absent = await _read_touched(connection, inside) if inside else ({}, set())
    return {
        row["symbol"]: _held(
            row, offered[row["symbol"]], unheld.get(row["symbol"], ()), touches_absent=row["symbol"] in absent
        )
        for row in ends
    }


def _may_touch(row: asyncpg.Record, offered: IdRanges) -> bool:
    """False, as nearly always, if the ids are beyond the ends of the ledger, or nothing is unheld between these."""
    if row["has_absent"]:
        return True
    is_beyond = not offered or offered.ranges[0][0] > (row["highest_id"] or 0)
    return bool(row["has_unheld"]) and not is_beyond


def _held(row: asyncpg.Record, offered: IdRanges, unheld: Sequence[Unheld], *, touches_absent: bool) -> Held:
    ends = None
    if row["lowest_id"] is not None:
        ends = Run(row["lowest_id"], row["highest_id"], row["lowest_time"], row["highest_time"])
    known = [
        None if ends is None or moment is None else KnownTrade(id_, moment)
        for id_, moment in ((row["lowest_id"], row["oldest"]), (row["highest_id"], row["newest"]))
    ]
    return Held(held_within(offered, ends, unheld), ends, unheld, row["has_unheld"], touches_absent, *known)


# The end of the offered ids must be a bigint, as the end of a run of unheld ids is.
_READ_ENDS = """
    SELECT w.symbol, s.lowest_id, coalesce(s.lowest_time, s.oldest_timestamp) AS lowest_time,
           s.highest_id, coalesce(s.highest_time, s.newest_timestamp) AS highest_time,
           s.oldest_timestamp AS oldest, s.newest_timestamp AS newest,
           EXISTS (SELECT FROM unheld_ids u WHERE u.symbol = w.symbol) AS has_unheld,
           EXISTS (SELECT FROM absent_ids a WHERE a.symbol = w.symbol) AS has_absent
    FROM (
        SELECT symbol, stop, newest_generation(symbol, 'trades') AS generation
        FROM unnest($1::text[], $2::bigint[]) AS r (symbol, stop) OFFSET 0
    ) AS w
    JOIN data_sync_status s
        ON s.symbol = w.symbol AND s.data_type = 'trades' AND s.generation = w.generation
"""


async def _read_touched(
    connection: Connection, offered: Mapping[str, IdRanges]
) -> tuple[dict[str, list[Unheld]], set[str]]:
    """By symbol, the runs of unheld ids that touch these ids, in order; and the symbols of which one is absent."""
    runs = [(symbol, *run) for symbol, ids in offered.items() for run in ids]
    arguments = [run[0] for run in runs], [run[1] for run in runs], [run[2] for run in runs]
    unheld: dict[str, list[Unheld]] = {}
    for row in await connection.fetch(_TOUCHED, *arguments):
        unheld.setdefault(row["symbol"], []).append(Unheld(*row[1:]))
    absent = await connection.fetch(_TOUCH_ABSENT, *arguments)
    return unheld, {row["symbol"] for row in absent}


# A run of unheld ids touches a run of offered ones if it ends inside it, or if it is the first that ends after it, and
# begins before its end. DISTINCT, because it may touch several.
_TOUCHED = """
    SELECT DISTINCT u.symbol, u.first_id, u.stop_id, u.after_time, u.before_time
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS r (symbol, low, high)
    CROSS JOIN LATERAL (
        SELECT * FROM unheld_ids WHERE symbol = r.symbol AND stop_id > r.low AND stop_id <= r.high
        UNION ALL
        SELECT * FROM (
            SELECT * FROM unheld_ids
            WHERE symbol = r.symbol AND stop_id > r.high ORDER BY stop_id, first_id DESC LIMIT 1
        ) AS next WHERE first_id < r.high
    ) AS u
    ORDER BY u.symbol, u.first_id
"""

_TOUCH_ABSENT = """
    SELECT DISTINCT r.symbol FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS r (symbol, low, high)
    WHERE EXISTS (
        SELECT FROM absent_ids a
        WHERE a.symbol = r.symbol AND a.first_id < r.high AND a.stop_id > r.low AND a.first_id >= coalesce(
            (SELECT max(b.first_id) FROM absent_ids b WHERE b.symbol = r.symbol AND b.first_id <= r.low), r.low)
    )
"""


async def extend_ledger(
    connection: Connection, new: Mapping[str, Sequence[HistoricalTrade]], held: Mapping[str, Held]
) -> dict[str, IdRanges]:
    """Add the ids of new trades, by symbol; return each symbol's newest holes that can be fetched.

    The symbols must be locked. Refusals of these trades are removed.

    Args:
        held: As :func:`lock_ledger` returned it for the same symbols.
    """
    runs = {symbol: runs_of((trade.id, trade.timestamp) for trade in trades) for symbol, trades in new.items()}
    changes = {symbol: extended(held[symbol].ends, held[symbol].unheld, its) for symbol, its in runs.items()}
    ids = {symbol: IdRanges((run.low, run.high + 1) for run in its) for symbol, its in runs.items()}
    await connection.execute(
        _EXTEND_LEDGER,
        list(new),
        [each.as_multirange() for each in ids.values()],
        [len(trades) for trades in new.values()],
        [min(trade.timestamp for trade in trades) for trades in new.values()],
        [max(trade.timestamp for trade in trades) for trades in new.values()],
        *map(list, zip(*((*change.lowest, *change.highest) for change in changes.values()), strict=True)),
    )
    await replace_unheld(connection, changes)
    if touching := {symbol: its for symbol, its in ids.items() if held[symbol].touches_absent}:
        await remove_absent(connection, touching)
    with_holes = [symbol for symbol, change in changes.items() if held[symbol].has_unheld or change.added]
    return dict.fromkeys(new, IdRanges()) | await _newest_holes(connection, with_holes)


# A refused trade may be stored after all, for example by a later version.
_EXTEND_LEDGER = f"""
    WITH n AS MATERIALIZED (
        SELECT n.*, newest_generation(n.symbol, 'trades') AS generation
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[],
                    $6::bigint[], $7::timestamptz[], $8::bigint[], $9::timestamptz[])
            AS n (symbol, ids, count, oldest, newest, lowest_id, lowest_time, highest_id, highest_time)
    ), accepted AS (
        DELETE FROM refused_trades r USING n WHERE r.symbol = n.symbol AND n.ids::int8multirange @> r.id
    )
    UPDATE data_sync_status s
    SET lowest_id = n.lowest_id, lowest_time = n.lowest_time,
        highest_id = n.highest_id, highest_time = n.highest_time,
        oldest_timestamp = least(s.oldest_timestamp, n.oldest),
        newest_timestamp = greatest(s.newest_timestamp, n.newest),
        total_records = s.total_records + n.count,
        last_sync_at = now(), {ONE_WRITE}
    FROM n
    WHERE s.symbol = n.symbol AND s.data_type = 'trades' AND s.generation = n.generation
"""  # noqa: S608 — constants are put in


async def _newest_holes(connection: Connection, symbols: Sequence[str]) -> dict[str, IdRanges]:
    """Each symbol's newest holes, without the ids that REST cannot show."""
    if not symbols:
        return {}
    rows = await connection.fetch(_NEWEST_HOLES, symbols, MOST_HOLES_REPORTED)
    missing = {row["symbol"]: IdRanges((r.lower, r.upper) for r in row["ids"]) for row in rows}
    return {symbol: IdRanges(ids.ranges[-MOST_HOLES_REPORTED:]) for symbol, ids in missing.items()}


_NEWEST_HOLES = """
    SELECT w.symbol, range_agg(missing_ids) - coalesce((
        SELECT range_agg(r) FROM unreachable_trades x, unnest(x.ids) AS r WHERE x.symbol = w.symbol
    ), '{}') AS ids
    FROM unnest($1::text[]) AS w (symbol)
    CROSS JOIN LATERAL (
        SELECT first_id, stop_id, missing FROM unheld_ids u
        WHERE u.symbol = w.symbol AND u.missing > 0 ORDER BY stop_id DESC LIMIT $2
    ) AS h
    CROSS JOIN LATERAL unnest(CASE
        WHEN h.missing = h.stop_id - h.first_id THEN int8multirange(int8range(h.first_id, h.stop_id))
        ELSE missing_within(w.symbol, h.first_id, h.stop_id) END) AS missing_ids
    GROUP BY w.symbol
"""
