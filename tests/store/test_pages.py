"""A page of REST Trades is stored in parts, with what its caller commits beside each of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.completeness.covered_time import cover, find_uncovered
from kraken_history.database.connections import Connection
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade, TimeRange
from kraken_history.storing.pages import Alongside, Part, write_page
from kraken_history.storing.store import Store, Stored
from tests.support.database import deadlock, stored_candles, stored_ids
from tests.support.examples import NOON, make_trade

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
FIRST_DAY = datetime(2024, 1, 1, 12, tzinfo=UTC)


def one_a_day(days: int, *, first_id: int = 1) -> list[HistoricalTrade]:
    return [make_trade(first_id + day, FIRST_DAY + timedelta(days=day)) for day in range(days)]


class Notes(Alongside):
    """Writes the ids of each part into a table of its own, and remembers all calls, those rolled back too.

    Args:
        before_ends_at: This call of ``before``, counted from 1, returns False.
        after_ends_at: This call of ``after``, likewise.
    """

    def __init__(self, *, before_ends_at: int = 0, after_ends_at: int = 0) -> None:
        self._before_ends_at, self._after_ends_at = before_ends_at, after_ends_at
        self.befores = 0
        self.parts: list[Part] = []
        self.stored: list[Stored] = []

    async def before(self, connection: Connection) -> bool:
        assert connection.is_in_transaction()
        self.befores += 1
        self.seen = await connection.fetchval("SELECT count(*) FROM trades")
        return self.befores != self._before_ends_at

    async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
        assert connection.is_in_transaction()
        assert await connection.fetchval("SELECT count(*) FROM trades") == self.seen + stored.new_trades
        self.parts.append(part)
        self.stored.append(stored)
        ids = [trade.id for trade in part.trades]
        await connection.execute("INSERT INTO notes (ids, is_last, newest) VALUES ($1, $2, $3)", ids, *ends_of(part))
        return len(self.parts) != self._after_ends_at


def ends_of(part: Part) -> tuple[bool, datetime | None]:
    return part.is_last, part.newest


@pytest.fixture
async def notes(pool: asyncpg.Pool) -> asyncpg.Pool:
    await pool.execute("CREATE TABLE notes (ids bigint[], is_last boolean, newest timestamptz)")
    return pool


async def noted(pool: asyncpg.Pool) -> list[tuple[Sequence[int], bool, datetime | None]]:
    return [tuple(row) for row in await pool.fetch("SELECT ids, is_last, newest FROM notes ORDER BY ids")]


async def test_a_page_that_spans_months_is_stored_in_parts_each_with_its_note(
    store: Store, notes: asyncpg.Pool
) -> None:
    stored = await write_page(store, one_a_day(45), also=Notes())

    assert await noted(notes) == [
        (list(range(1, 21)), False, FIRST_DAY + timedelta(days=19)),
        (list(range(21, 41)), False, FIRST_DAY + timedelta(days=39)),
        (list(range(41, 46)), True, FIRST_DAY + timedelta(days=44)),
    ]
    assert (stored.new_trades, stored.known_trades, stored.new_candles, stored.is_stopped) == (45, 0, 45, False)
    assert await stored_ids(notes) == list(range(1, 46))


async def test_a_page_of_some_days_is_one_part(store: Store, notes: asyncpg.Pool) -> None:
    await write_page(store, one_a_day(20), also=Notes())

    assert await noted(notes) == [(list(range(1, 21)), True, FIRST_DAY + timedelta(days=19))]


async def test_an_empty_page_is_one_empty_part(store: Store, notes: asyncpg.Pool) -> None:
    """Its caller has a cursor, or a coverage, to commit."""
    stored = await write_page(store, [], also=Notes())

    assert await noted(notes) == [([], True, None)]
    assert (stored.new_trades, stored.known_trades, stored.new_candles, stored.holes) == (0, 0, 0, {})
    assert not stored.is_stopped


async def test_nobody_has_to_commit_anything_beside_a_page(store: Store, pool: asyncpg.Pool) -> None:
    stored = await write_page(store, one_a_day(25))

    assert (stored.new_trades, stored.is_stopped) == (25, False)
    assert len(await stored_candles(pool)) == 25


async def test_nothing_is_written_from_the_part_on_before_which_the_caller_stops(
    store: Store, notes: asyncpg.Pool
) -> None:
    stored = await write_page(store, one_a_day(60), also=Notes(before_ends_at=2))

    assert (stored.new_trades, stored.is_stopped) == (20, True)
    assert await stored_ids(notes) == list(range(1, 21))
    assert len(await noted(notes)) == 1


async def test_a_caller_that_stops_before_the_first_part_leaves_nothing(store: Store, notes: asyncpg.Pool) -> None:
    stored = await write_page(store, one_a_day(60), also=Notes(before_ends_at=1))

    assert (stored.new_trades, stored.known_trades, stored.is_stopped) == (0, 0, True)
    assert (await stored_ids(notes), await noted(notes)) == ([], [])
    assert await notes.fetchval("SELECT count(*) FROM data_sync_status") == 0


async def test_the_part_after_which_the_caller_stops_is_the_last_that_is_written(
    store: Store, notes: asyncpg.Pool
) -> None:
    """A backfill's target may end within a page that spans years."""
    stored = await write_page(store, one_a_day(60), also=Notes(after_ends_at=2))

    assert (stored.new_trades, stored.is_stopped) == (40, True)
    assert await stored_ids(notes) == list(range(1, 41))
    assert len(await noted(notes)) == 2


async def test_counts_are_of_all_parts_and_holes_of_the_last_that_brought_something_new(
    store: Store, notes: asyncpg.Pool
) -> None:
    page = one_a_day(60)
    del page[5]  # id 6 is missing in the first part
    await store.write(page[30:])
    also = Notes()

    stored = await write_page(store, page, also=also)

    assert [(each.new_trades, each.known_trades) for each in also.stored] == [(20, 0), (10, 10), (0, 19)]
    assert (stored.new_trades, stored.known_trades, stored.new_candles) == (30, 29, 30)
    assert stored.holes == {"BTC/USDT": IdRanges([(6, 7)])}
    assert also.stored[0].holes == {"BTC/USDT": IdRanges([(6, 7), (22, 32)])}


async def test_a_page_that_brings_nothing_new_tells_of_no_holes(store: Store) -> None:
    page = [make_trade(1), make_trade(5)]
    await store.write(page)

    stored = await write_page(store, page)

    assert (stored.new_trades, stored.known_trades, stored.holes) == (0, 2, {})


@plain_only
async def test_a_part_that_loses_a_deadlock_is_written_again_with_both_hooks(store: Store, notes: asyncpg.Pool) -> None:
    await deadlock(notes, times=2)
    also = Notes()

    stored = await write_page(store, one_a_day(25), also=also)

    assert also.befores == 4
    assert [part.is_last for part in also.parts] == [False, True]  # the deadlocks came before
    assert (stored.new_trades, stored.known_trades) == (25, 0)
    assert [ids for ids, *_ in await noted(notes)] == [list(range(1, 21)), list(range(21, 26))]


@plain_only
async def test_what_the_hooks_wrote_is_rolled_back_when_the_part_is_written_again(
    store: Store, notes: asyncpg.Pool
) -> None:
    """A deadlock that the second hook loses: what it, and the part, had written comes once nevertheless."""

    class Loses(Notes):
        async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
            goes_on = await super().after(connection, part, stored)
            if len(self.parts) == 1:
                await connection.execute("DO $$ BEGIN RAISE 'deadlock detected' USING ERRCODE = '40P01'; END $$")
            return goes_on

    also = Loses()

    stored = await write_page(store, one_a_day(3), also=also)

    assert (also.befores, [each.new_trades for each in also.stored]) == (2, [3, 3])
    assert (stored.new_trades, stored.known_trades) == (3, 0)
    assert [ids for ids, *_ in await noted(notes)] == [[1, 2, 3]]


async def test_coverage_is_committed_with_the_page_that_proves_it(store: Store, pool: asyncpg.Pool) -> None:
    """What Kraken was asked for and had no trade of is covered too, before the first trade as well."""
    asked = TimeRange(FIRST_DAY - timedelta(days=1), FIRST_DAY + timedelta(days=2))

    class Covers(Alongside):
        fails = True

        async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
            await cover(connection, "BTC/USDT", asked)
            if self.fails:
                raise ConnectionResetError("killed")
            return True

    also = Covers()
    with pytest.raises(ConnectionResetError):
        await write_page(store, one_a_day(1), also=also)
    (before,) = await find_uncovered(pool, ["BTC/USDT"], asked.start, asked.end)
    also.fails = False
    await write_page(store, one_a_day(1), also=also)
    (after,) = await find_uncovered(pool, ["BTC/USDT"], asked.start, asked.end)

    assert (before.last_id, before.stretches) == (None, [asked])
    assert (after.last_id, after.stretches) == (1, [])


@plain_only
async def test_a_deadlock_that_does_not_end_is_raised_and_the_parts_before_stay(
    store: Store, notes: asyncpg.Pool
) -> None:
    class Loses(Notes):
        async def before(self, connection: Connection) -> bool:
            goes_on = await super().before(connection)
            if self.befores > 1:
                await connection.execute("DO $$ BEGIN RAISE 'deadlock detected' USING ERRCODE = '40P01'; END $$")
            return goes_on

    with pytest.raises(asyncpg.DeadlockDetectedError):
        await write_page(store, one_a_day(25), also=Loses())

    assert await stored_ids(notes) == list(range(1, 21))
    assert len(await noted(notes)) == 1


@plain_only
async def test_a_partition_that_was_dropped_meanwhile_is_made_again(store: Store, notes: asyncpg.Pool) -> None:
    await store.write([make_trade(1, NOON)])
    await notes.execute(f"DROP TABLE trades_{NOON:%Y%m%d}")
    also = Notes()

    stored = await write_page(store, [make_trade(2, NOON)], also=also)

    assert (stored.new_trades, also.befores) == (1, 2)
    assert [ids for ids, *_ in await noted(notes)] == [[2]]
