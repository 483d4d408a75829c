"""Whatever is stored and asked: the kinds are what one gets by looking at each moment by itself."""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from kraken_history.completeness.status_rows import update_row
from kraken_history.errors import CoverageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.kinds import KINDS
from kraken_history.reading.measured_coverage import find_missing, measure_coverage
from kraken_history.records import CandleSource, TimeRange
from kraken_history.storing.map_building import build_missing_maps
from kraken_history.storing.store import Store
from tests.coverage_reads.truth import Known, at, ranges_of, slots_of
from tests.support.absent import make_absent
from tests.support.examples import NOON, make_candle, make_trade

SLOTS = 60
"""Ten minutes."""


class History(Struct, frozen=True):
    """What happened to a symbol.

    Attributes:
        trades: By id, the slot of each trade that was stored.
        candles: By minute, a candle of another source: its source and how many trades it holds.
        gone: Slots whose candles were dropped, before what is stored was.
        dropped: Trades before this slot are not there any more.
    """

    trades: dict[int, int]
    absent: frozenset[int]
    asked: frozenset[int]
    given: frozenset[int]
    candles: dict[int, tuple[CandleSource, int]]
    gone: frozenset[int]
    dropped: int


_slots = st.integers(0, SLOTS - 1)
_stretches = st.tuples(_slots, st.integers(0, SLOTS)).map(lambda pair: frozenset(range(*pair)))
_sources: st.SearchStrategy[CandleSource] = st.sampled_from(("ohlc", "csv"))


@st.composite
def histories(draw: st.DrawFn, *, dropped: st.SearchStrategy[int]) -> History:
    """Up to 14 trades, of which some were never stored, and of these some never were."""
    slots = sorted(draw(st.lists(_slots, max_size=14) | st.lists(_slots, min_size=6, max_size=14)))
    fates = draw(st.lists(st.sampled_from("sssma"), min_size=len(slots), max_size=len(slots)))
    numbered = list(zip(slots, fates, strict=True))
    return History(
        {n: slot for n, (slot, fate) in enumerate(numbered, 1) if fate == "s"},
        frozenset(n for n, (_, fate) in enumerate(numbered, 1) if fate == "a"),
        draw(_stretches),
        draw(_stretches),
        draw(st.dictionaries(st.integers(0, 9), st.tuples(_sources, st.integers(1, 4)), max_size=6)),
        draw(st.just(frozenset[int]()) | _stretches),
        draw(dropped),
    )


_windows = st.lists(st.integers(-4, SLOTS + 4), min_size=2, max_size=2, unique=True).map(sorted)


async def store_history(pool: asyncpg.Pool, history: History, *, is_mapped: bool = False) -> Known:
    """Make it so, in a database that holds nothing else.

    Args:
        is_mapped: True to keep the map of the day's minutes with candles.
    """
    await pool.execute(
        "DELETE FROM trades; DELETE FROM candles; DELETE FROM data_sync_status; DELETE FROM sync_keys;"
        " DELETE FROM unheld_ids; DELETE FROM absent_ids; DELETE FROM dropped_ranges; DELETE FROM minute_maps"
    )
    store = Store(pool)
    await store.write([make_trade(id_, at(slot)) for id_, slot in history.trades.items()])
    for minute, (source, trade_count) in history.candles.items():
        await store.write(candles=[make_candle(at(6 * minute), trade_count=trade_count)], candle_source=source)
    for data_type, slots in (("trades", history.asked), ("candles_1m", history.given)):
        ranges = [asyncpg.Range(each.start, each.end) for each in ranges_of(slots)]
        await update_row(pool, "BTC/USDT", data_type, "time_ranges = $3", ranges)
    await make_absent(pool, *((id_, id_ + 1) for id_ in history.absent))
    await pool.execute(
        "INSERT INTO dropped_ranges VALUES ('candles', $1)",
        [asyncpg.Range(each.start, each.end) for each in ranges_of(history.gone)],
    )
    await pool.execute("DELETE FROM trades WHERE timestamp < $1", at(history.dropped))
    if is_mapped:
        await build_missing_maps(pool, now=NOON + timedelta(days=9))
    sources = await pool.fetch("SELECT timestamp, source::text FROM candles")
    return Known(
        history.trades, history.absent, history.asked, history.given, history.gone, {row[0]: row[1] for row in sources}
    )


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=histories(dropped=st.just(0)), window=_windows, is_mapped=st.booleans())
async def test_every_moment_is_of_the_kind_that_all_that_is_stored_makes_it(
    pool: asyncpg.Pool, history: HistoricalDataProvider, past: History, window: list[int], is_mapped: bool
) -> None:
    known = await store_history(pool, past, is_mapped=is_mapped)

    coverage = await history.get_coverage("BTC/USDT", at(window[0]), at(window[1]))

    assert slots_of(coverage, *window) == [known.kind(slot) for slot in range(*window)]
    assert await missing_by_the_quick_check(history, window) == coverage.missing


async def missing_by_the_quick_check(history: HistoricalDataProvider, window: list[int]) -> list[TimeRange]:
    """What a read with ``gaps="raise"`` raises for; it looks at candles only where trades prove nothing."""
    try:
        await history.require_complete("BTC/USDT", at(window[0]), at(window[1]))
    except CoverageError as error:
        joined: list[TimeRange] = []
        for gap in error.gaps:  # what was dropped is a gap of its own
            if joined and joined[-1].end == gap.start:
                joined[-1] = TimeRange(joined[-1].start, gap.end)
            else:
                joined.append(gap)
        return joined
    return []


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=histories(dropped=st.just(0)), window=_windows, is_mapped=st.booleans())
async def test_what_is_counted_by_day_is_what_one_gets_by_looking_at_each_moment(
    pool: asyncpg.Pool, past: History, window: list[int], is_mapped: bool
) -> None:
    known = await store_history(pool, past, is_mapped=is_mapped)
    kinds = [known.kind(slot) for slot in range(*window)]

    async with pool.acquire() as connection:
        measured = await measure_coverage(connection, "BTC/USDT", at(window[0]), at(window[1]))
        missing = await find_missing(connection, "BTC/USDT", at(window[0]), at(window[1]))

    assert measured.totals == {kind: 10 * kinds.count(kind) for kind in KINDS}
    missing_slots = {slot for slot, kind in zip(range(*window), kinds, strict=True) if kind == "missing"}
    assert joined(ranges_of(missing_slots)) == joined(measured.missing)
    assert missing == measured.missing


def joined(ranges: Sequence[TimeRange]) -> list[TimeRange]:
    """The ranges, with those that touch each other made one."""
    result: list[TimeRange] = []
    for each in ranges:
        start = result.pop().start if result and result[-1].end == each.start else each.start
        result.append(TimeRange(start, each.end))
    return result


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=histories(dropped=_slots), window=_windows)
async def test_where_trades_were_dropped_no_more_is_claimed(
    pool: asyncpg.Pool, history: HistoricalDataProvider, past: History, window: list[int]
) -> None:
    known = await store_history(pool, past)

    coverage = await history.get_coverage("BTC/USDT", at(window[0]), at(window[1]))

    for slot, kind in zip(range(*window), slots_of(coverage, *window), strict=True):
        assert kind in (known.kind(slot), "missing")
