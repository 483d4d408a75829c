"""Whatever is written, refused, proven absent or removed, and in whatever order: the rows of the ledger are right."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from kraken_history.completeness.hole_times import find_hole_spans
from kraken_history.completeness.holes import count_missing, find_held_to, find_holes, missing_of
from kraken_history.intervals import Span
from kraken_history.ledger import IdRanges
from kraken_history.records import MINUTE, RefusedTrade, floor_minute
from kraken_history.storing.repair import correct_ledger, remove_trade
from kraken_history.storing.store import Store
from tests.support.absent import absent_ids, make_absent
from tests.support.contents import ledger
from tests.support.examples import NOON, make_trade

SYMBOL = "BTC/USDT"
MOST = 40
JUMPS = (timedelta(0), timedelta(microseconds=1), timedelta(seconds=20), timedelta(minutes=3), timedelta(hours=30))


class Step(Struct, frozen=True):
    """What is done to some ids, by one writer, or by two at once, each with a part of them."""

    what: Literal["write", "write at once", "refuse", "absent", "remove"]
    ids: Sequence[int]


class Model:
    """What the ledger must say, by the definition of each word."""

    def __init__(self, moments: Sequence[datetime]) -> None:
        self.moments = moments
        self.held: set[int] = set()
        self.absent: set[int] = set()

    def take(self, step: Step) -> None:
        if step.what.startswith("write"):
            self.held |= set(step.ids)
            self.absent -= set(step.ids)
        elif step.what == "remove":
            self.held -= set(step.ids)
        else:
            self.absent |= set(step.ids) - self.held

    @property
    def holes(self) -> IdRanges:
        return IdRanges.of(self.held).holes - IdRanges.of(self.absent)

    @property
    def spans(self) -> list[Span]:
        """From the minute of the stored trade on one side of each hole to that of the other."""
        found = []
        for first, stop in IdRanges.of(self.held).holes:
            if set(range(first, stop)) - self.absent:
                sides = self.moments[first - 1], self.moments[stop]
                found.append((floor_minute(min(sides)), floor_minute(max(sides)) + MINUTE))
        return sorted(found)

    def held_to(self, trade_id: int) -> int:
        to = trade_id + 1
        while to in self.held | self.absent:
            to += 1
        return to


@st.composite
def tapes(draw: st.DrawFn) -> list[datetime]:
    """The time of each id. Now and then a trade is a little older than the one before it."""
    moments = [NOON]
    for _ in range(MOST):
        jump = draw(st.sampled_from(JUMPS))
        is_back = draw(st.integers(0, 9)) == 0
        moments.append(moments[-1] + (-min(jump, timedelta(seconds=20)) if is_back else jump))
    return moments


_ids = st.integers(1, MOST)
_runs = st.tuples(_ids, st.integers(1, 12)).map(lambda run: list(range(run[0], min(run[0] + run[1], MOST + 1))))
_batches = st.lists(_ids, min_size=1, max_size=8) | _runs
_kinds: st.SearchStrategy[Literal["write", "write at once", "refuse", "absent"]] = st.sampled_from(
    ("write", "write", "write at once", "refuse", "absent")
)
_steps = st.lists(st.builds(Step, _kinds, _batches), min_size=1, max_size=7)


async def empty(pool: asyncpg.Pool) -> None:
    await pool.execute(
        "TRUNCATE trades, candles, data_sync_status, sync_keys, unheld_ids, absent_ids, refused_trades, removed_trades,"
        " contested_minutes, corrected_minutes"
    )


async def do(pool: asyncpg.Pool, step: Step, moments: Sequence[datetime]) -> None:
    store = Store(pool)
    trades = [make_trade(id_, moments[id_]) for id_ in step.ids]
    match step.what:
        case "write":
            await store.write(trades)
        case "write at once":
            await asyncio.gather(store.write(trades[::2]), store.write(trades[1::2]), store.write(trades))
        case "refuse":
            await store.write(refused=[RefusedTrade(id_, SYMBOL, moments[id_], "no price") for id_ in step.ids])
        case "absent":
            await make_absent(pool, *((id_, id_ + 1) for id_ in step.ids))
        case "remove":
            for id_ in step.ids:
                await remove_trade(pool, SYMBOL, id_, "a test")


async def check(pool: asyncpg.Pool, model: Model) -> None:
    assert (await ledger(pool)).get(SYMBOL, IdRanges()) == IdRanges.of(model.held)
    assert IdRanges(await absent_ids(pool)) == IdRanges.of(model.absent)
    assert (await find_holes(pool)).get(SYMBOL, IdRanges()) == model.holes
    assert (await count_missing(pool)).get(SYMBOL, 0) == len(model.holes)
    assert await pool.fetchval("SELECT count(*) FROM trades") == len(model.held)
    async with pool.acquire() as connection:
        whole = (min(model.moments) - MINUTE, max(model.moments) + MINUTE)
        assert await find_hole_spans(connection, SYMBOL, whole) == model.spans
        for id_ in range(1, MOST, 7):
            start = floor_minute(model.moments[id_])
            for end in (start + MINUTE, start + timedelta(hours=5)):
                touched = [each for each in model.spans if each[0] < end and each[1] > start]
                assert await find_hole_spans(connection, SYMBOL, (start, end)) == touched
    if model.held:
        some = sorted(model.held)[len(model.held) // 2]
        assert await find_held_to(pool, SYMBOL, some) == model.held_to(some)
        asked = IdRanges([(3, MOST + 5)])
        known = IdRanges.of(model.held | model.absent)
        assert await missing_of(pool, SYMBOL, (3, MOST + 5)) == asked - known


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(moments=tapes(), steps=_steps)
async def test_after_every_step_the_rows_say_what_is_stored(
    pool: asyncpg.Pool, moments: list[datetime], steps: list[Step]
) -> None:
    await empty(pool)
    model = Model(moments)

    for step in steps:
        await do(pool, step, moments)
        model.take(step)
        await check(pool, model)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(moments=tapes(), written=_steps, removed=st.lists(_ids, min_size=1, max_size=5, unique=True), again=_batches)
async def test_removed_trades_are_missing_and_can_be_stored_again(
    pool: asyncpg.Pool, moments: list[datetime], written: list[Step], removed: list[int], again: list[int]
) -> None:
    await empty(pool)
    model = Model(moments)
    for step in written:
        await do(pool, step, moments)
        model.take(step)

    for step in (Step("remove", [id_ for id_ in removed if id_ in model.held]), Step("write", again)):
        await do(pool, step, moments)
        model.take(step)
        await check(pool, model)


async def test_ids_that_a_repair_loses_are_runs_with_known_times(pool: asyncpg.Pool) -> None:
    """Also if nothing says when they were made: then their neighbours' times are searched in all trades."""
    moments = [NOON + id_ * timedelta(hours=3) for id_ in range(MOST)]
    await Store(pool).write([make_trade(id_, moments[id_]) for id_ in range(1, MOST)])
    await pool.execute("DELETE FROM trades WHERE id BETWEEN 10 AND 12 OR id = 1")

    await correct_ledger(pool, SYMBOL, IdRanges([(1, 2), (10, 13)]), [], [])

    rows = await pool.fetch("SELECT first_id, stop_id, missing, after_time, before_time FROM unheld_ids")
    assert [tuple(row) for row in rows] == [(10, 13, 3, moments[9], moments[13])]
    assert (await ledger(pool))[SYMBOL] == IdRanges([(2, 10), (13, MOST)])
