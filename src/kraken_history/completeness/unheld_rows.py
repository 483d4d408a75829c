"""Writes the rows of ids that are not stored: ``unheld_ids`` and ``absent_ids``. Their symbols must be locked."""

from collections.abc import Mapping

from kraken_history.completeness.unheld import Change
from kraken_history.database.connections import Connection
from kraken_history.ledger import IdRanges


async def replace_unheld(connection: Connection, changes: Mapping[str, Change]) -> None:
    """Delete the runs of unheld ids that are gone, and insert those that were added."""
    gone = [(symbol, each) for symbol, change in changes.items() for each in change.gone]
    added = [(symbol, each) for symbol, change in changes.items() for each in change.added]
    if gone or added:
        await connection.execute(
            _REPLACE_UNHELD,
            [symbol for symbol, _ in gone],
            [each.first for _, each in gone],
            [each.stop for _, each in gone],
            [symbol for symbol, _ in added],
            [each.first for _, each in added],
            [each.stop for _, each in added],
            [each.after for _, each in added],
            [each.before for _, each in added],
        )


# No added run is one that is gone. Absent ids of the added runs are not missing.
_REPLACE_UNHELD = """
    WITH gone AS (
        DELETE FROM unheld_ids u USING unnest($1::text[], $2::bigint[], $3::bigint[]) AS g (symbol, first_id, stop_id)
        WHERE u.symbol = g.symbol AND u.stop_id = g.stop_id AND u.first_id = g.first_id
    )
    INSERT INTO unheld_ids (symbol, first_id, stop_id, missing, after_time, before_time)
    SELECT a.symbol, a.first_id, a.stop_id, a.stop_id - a.first_id - (
        SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(absent_within(a.symbol, a.first_id, a.stop_id)) AS r
    ), a.after_time, a.before_time
    FROM unnest($4::text[], $5::bigint[], $6::bigint[], $7::timestamptz[], $8::timestamptz[])
        AS a (symbol, first_id, stop_id, after_time, before_time)
"""


async def remove_absent(connection: Connection, ids: Mapping[str, IdRanges]) -> None:
    """Make ids, by symbol, absent no longer. They must be stored."""
    await connection.execute(_REMOVE_ABSENT, *_runs(ids))


async def add_absent(connection: Connection, ids: Mapping[str, IdRanges]) -> None:
    """Make ids, by symbol, absent, except those that are stored."""
    runs = _runs(ids)
    await connection.execute(_ADD_ABSENT, *runs)
    await connection.execute(_COUNT_MISSING, *runs)


def _runs(ids: Mapping[str, IdRanges]) -> tuple[list[str], list[int], list[int]]:
    runs = [(symbol, *run) for symbol, its in ids.items() for run in its]
    return [run[0] for run in runs], [run[1] for run in runs], [run[2] for run in runs]


# Rows that touch the given runs, or are next to them, are replaced.
_TOUCHED_ABSENT = """
    given AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS r (symbol, low, high)
    ), touched AS (
        DELETE FROM absent_ids a USING given r
        WHERE a.symbol = r.symbol AND a.first_id <= r.high AND a.stop_id >= r.low AND a.first_id >= coalesce(
            (SELECT max(b.first_id) FROM absent_ids b WHERE b.symbol = r.symbol AND b.first_id <= r.low), r.low)
        RETURNING a.symbol, a.first_id, a.stop_id
    )"""

_REMOVE_ABSENT = f"""
    WITH {_TOUCHED_ABSENT}, before AS (
        SELECT symbol, range_agg(int8range(first_id, stop_id)) AS ids FROM touched GROUP BY symbol
    )
    INSERT INTO absent_ids (symbol, first_id, stop_id)
    SELECT b.symbol, lower(run), upper(run)
    FROM before b
    CROSS JOIN LATERAL (SELECT range_agg(int8range(low, high)) AS ids FROM given r WHERE r.symbol = b.symbol) AS g
    CROSS JOIN LATERAL unnest(b.ids - g.ids) AS run
"""  # noqa: S608 — constants are put in

_ADD_ABSENT = f"""
    WITH {_TOUCHED_ABSENT}, runs AS (
        SELECT symbol, int8range(first_id, stop_id) AS run FROM touched
        UNION ALL
        SELECT r.symbol, run FROM given r CROSS JOIN LATERAL unnest(unheld_within(r.symbol, r.low, r.high)) AS run
    )
    INSERT INTO absent_ids (symbol, first_id, stop_id)
    SELECT symbol, lower(run), upper(run)
    FROM (SELECT symbol, range_agg(run) AS ids FROM runs GROUP BY symbol) AS joined
    CROSS JOIN LATERAL unnest(ids) AS run
"""  # noqa: S608 — constants are put in

_COUNT_MISSING = """
    UPDATE unheld_ids u SET missing = u.stop_id - u.first_id - (
        SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(absent_within(u.symbol, u.first_id, u.stop_id)) AS r
    )
    FROM (
        SELECT DISTINCT t.symbol, t.first_id, t.stop_id
        FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS r (symbol, low, high)
        CROSS JOIN LATERAL (
            SELECT * FROM unheld_ids WHERE symbol = r.symbol AND stop_id > r.low AND stop_id <= r.high
            UNION ALL
            SELECT * FROM (
                SELECT * FROM unheld_ids
                WHERE symbol = r.symbol AND stop_id > r.high ORDER BY stop_id, first_id DESC LIMIT 1
            ) AS next WHERE first_id < r.high
        ) AS t
    ) AS t
    WHERE u.symbol = t.symbol AND u.stop_id = t.stop_id AND u.first_id = t.first_id
"""
