"""Every trade exactly once, with every digit, and the ledger that proves it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from kraken_history.database.failures import is_transient
from kraken_history.kraken.rest import decode_result, decode_trades_page
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.storing.ledger_writing import MOST_HOLES_REPORTED
from kraken_history.storing.store import Store
from tests.support.absent import absent_ids, make_absent
from tests.support.contents import everything, ledger, stored_candles, stored_trades, sync_status
from tests.support.examples import NOON, make_trade

TRADES = [make_trade(id_, NOON + timedelta(seconds=7 * id_), f"{100 + id_}.50") for id_ in range(1, 31)]


def microsecond_later(trade: HistoricalTrade) -> HistoricalTrade:
    fields = {name: getattr(trade, name) for name in trade.__struct_fields__}
    return HistoricalTrade(**fields | {"timestamp": trade.timestamp + timedelta(microseconds=1)})


@pytest.fixture
def recorded_page(recordings: Path) -> list[HistoricalTrade]:
    body = (recordings / "rest/trades_xbtusdt_2025-11-10.json").read_bytes()
    return list(decode_trades_page(decode_result(200, body), "BTC/USDT", since=0).trades)


async def test_a_recorded_page_is_stored_row_for_row(
    store: Store, pool: asyncpg.Pool, recorded_page: list[HistoricalTrade]
) -> None:
    stored = await store.write(recorded_page)

    assert (stored.new_trades, stored.known_trades, stored.new_candles) == (1000, 0, 274)
    assert await stored_trades(pool) == recorded_page
    assert await ledger(pool) == {"BTC/USDT": IdRanges([(10218208, 10219208)])}
    assert [row.candle for row in await stored_candles(pool)] == build_candles(recorded_page)


async def test_a_recorded_page_a_second_time_changes_nothing(
    store: Store, pool: asyncpg.Pool, recorded_page: list[HistoricalTrade]
) -> None:
    await store.write(recorded_page)
    before = await everything(pool)

    again = await store.write(recorded_page)

    assert (again.new_trades, again.known_trades, again.new_candles, again.holes) == (0, 1000, 0, {})
    assert await everything(pool) == before


async def test_the_same_trades_a_microsecond_off_change_nothing(
    store: Store, pool: asyncpg.Pool, recorded_page: list[HistoricalTrade]
) -> None:
    """Over REST a trade can carry a time a microsecond later than over WebSocket: a unique key lets it in twice."""
    await store.write(recorded_page)
    before = await everything(pool)

    again = await store.write([microsecond_later(trade) for trade in recorded_page])

    assert (again.new_trades, again.known_trades) == (0, 1000)
    assert await everything(pool) == before


async def test_a_batch_that_overlaps_what_is_held_adds_the_rest(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(TRADES[:20])

    stored = await store.write(TRADES[10:])

    assert (stored.new_trades, stored.known_trades) == (10, 10)
    assert await stored_trades(pool) == TRADES
    assert [row.candle for row in await stored_candles(pool)] == build_candles(TRADES)


async def test_of_a_trade_twice_in_one_batch_the_first_is_kept(store: Store, pool: asyncpg.Pool) -> None:
    first = make_trade(5, NOON, "10")

    stored = await store.write([first, make_trade(5, NOON + timedelta(seconds=1), "11"), first])

    assert (stored.new_trades, stored.known_trades) == (1, 2)
    assert await stored_trades(pool) == [first]


async def test_a_trade_twice_in_a_batch_that_is_partly_held_is_stored_once(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(TRADES[:2])

    stored = await store.write([TRADES[1], TRADES[2], TRADES[2], microsecond_later(TRADES[2])])

    assert (stored.new_trades, stored.known_trades) == (1, 3)
    assert await stored_trades(pool) == TRADES[:3]


async def test_the_same_id_of_two_symbols_is_two_trades(store: Store, pool: asyncpg.Pool) -> None:
    trades = [make_trade(1, symbol="BTC/USDT"), make_trade(1, symbol="ETH/USDT"), make_trade(4, symbol="ETH/USDT")]

    stored = await store.write([trades[2], trades[0], trades[1]])

    assert stored.holes == {"BTC/USDT": IdRanges(), "ETH/USDT": IdRanges([(2, 4)])}
    assert await stored_trades(pool) == trades
    assert await ledger(pool) == {"BTC/USDT": IdRanges.of([1]), "ETH/USDT": IdRanges.of([1, 4])}


async def test_nothing_to_write_is_nothing_written(store: Store, pool: asyncpg.Pool) -> None:
    before = await everything(pool)

    stored = await store.write([], [])

    assert (stored.new_trades, stored.known_trades, stored.new_candles, stored.holes) == (0, 0, 0, {})
    assert await everything(pool) == before


# Holes


async def test_a_hole_is_reported_and_closes(store: Store, pool: asyncpg.Pool) -> None:
    first = await store.write([TRADES[0], TRADES[4]])
    second = await store.write([TRADES[2]])
    third = await store.write([TRADES[1], TRADES[3]])

    assert first.holes == {"BTC/USDT": IdRanges([(2, 5)])}
    assert second.holes == {"BTC/USDT": IdRanges([(2, 3), (4, 5)])}
    assert third.holes == {"BTC/USDT": IdRanges()}
    assert await ledger(pool) == {"BTC/USDT": IdRanges([(1, 6)])}


async def test_holes_of_symbols_without_new_trades_are_not_reported(store: Store) -> None:
    await store.write([make_trade(1, symbol="ETH/USDT"), make_trade(3, symbol="ETH/USDT")])

    stored = await store.write([make_trade(1), make_trade(3, symbol="ETH/USDT")])

    assert stored.holes == {"BTC/USDT": IdRanges()}


async def test_of_very_many_holes_the_newest_are_reported(store: Store) -> None:
    stored = await store.write([make_trade(2 * n) for n in range(1, MOST_HOLES_REPORTED + 12)])

    holes = stored.holes["BTC/USDT"]
    assert len(holes) == MOST_HOLES_REPORTED
    assert 2 * (MOST_HOLES_REPORTED + 11) - 1 in holes
    assert 3 not in holes


async def test_ids_proven_absent_are_no_hole(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([TRADES[0], TRADES[5]])
    await make_absent(pool, (2, 5))

    stored = await store.write([TRADES[6]])

    assert stored.holes == {"BTC/USDT": IdRanges([(5, 6)])}


async def test_an_absent_id_that_turns_up_is_held_after_all(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([TRADES[0], TRADES[5]])
    await make_absent(pool, (2, 6))

    stored = await store.write([TRADES[2]])

    assert stored.new_trades == 1
    assert await absent_ids(pool) == [(2, 3), (4, 6)]


# Sync status


async def test_the_sync_status_counts_what_is_stored(store: Store, pool: asyncpg.Pool) -> None:
    started = await pool.fetchval("SELECT now()")
    await store.write(TRADES[10:20])
    await store.write(TRADES[:15])

    status = await sync_status(pool, "BTC/USDT", "trades")
    assert status is not None
    assert status["total_records"] == 20
    assert (status["oldest_timestamp"], status["newest_timestamp"]) == (TRADES[0].timestamp, TRADES[19].timestamp)
    assert status["last_sync_at"] > started
    candles = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert candles is not None
    assert candles["total_records"] == 3
    assert candles["oldest_timestamp"] == NOON
    assert candles["newest_timestamp"] == NOON + timedelta(minutes=2)


async def test_writing_what_is_known_is_no_sync(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(TRADES)
    before = await sync_status(pool, "BTC/USDT", "trades")

    await store.write(TRADES)

    assert await sync_status(pool, "BTC/USDT", "trades") == before


# Digits and text


NUMBERS = (
    "1E-8", "0.00000001", "123456789012345678.123456789", "1E+10", "20000", "1.50000000", "9" * 29, "1.0E-27", "7",
)  # fmt: skip


@pytest.mark.parametrize("misc", ["", "with\\backslash"])
async def test_a_number_is_stored_as_it_was_sent(store: Store, pool: asyncpg.Pool, misc: str) -> None:
    trades = [make_trade(id_, price=text, volume=text, misc=misc) for id_, text in enumerate(NUMBERS)]

    await store.write(trades)

    rows = await pool.fetch("SELECT price::text, volume::text FROM trades ORDER BY id")
    assert await stored_trades(pool) == trades
    assert [tuple(row) for row in rows] == [(f"{Decimal(text):f}",) * 2 for text in NUMBERS]


TEXTS = (
    "\t", "a\tb", "\\", "\\N", "\\.", "\\t", "a\nb", "\r\n", "\n\\.\n", '"', '""', "'", ",", "],[", '","', "[[", "]]",
    " lead", "trail ", "é", "\u2028", "🐙", "\x01", "\x7f", "NULL", "null", "\\u0041", "", "x" * 3000,
)  # fmt: skip


async def test_any_text_is_stored_as_it_was_sent(store: Store, pool: asyncpg.Pool) -> None:
    for at, text in enumerate(TEXTS):
        trades = [
            make_trade(5 * at),
            make_trade(5 * at + 1, misc=text, price="1E-8"),
            make_trade(5 * at + 2, order_type=text, volume="0.10"),
            make_trade(5 * at + 3, misc=text, order_type=text),
            make_trade(5 * at + 4),
        ]

        await store.write(trades)

        assert (await stored_trades(pool))[5 * at :] == trades, repr(text)


@pytest.mark.parametrize("at", ["misc", "order_type"])
async def test_a_nul_byte_is_the_datas_fault_and_nothing_of_its_batch_is_stored(
    store: Store, pool: asyncpg.Pool, at: str
) -> None:
    text = {at: "a\x00b"}

    with pytest.raises(asyncpg.DataError) as refusal:
        await store.write([make_trade(1), make_trade(2, **text)])  # type: ignore[arg-type]

    assert not is_transient(refusal.value)
    assert await everything(pool) == ([], [], [])


async def test_an_id_that_the_ledger_cannot_hold_is_the_datas_fault(store: Store, pool: asyncpg.Pool) -> None:
    with pytest.raises((asyncpg.DataError, ValueError)) as refusal:
        await store.write([make_trade(2**63 - 1)])

    assert not is_transient(refusal.value)
    assert await everything(pool) == ([], [], [])


async def test_the_largest_id_that_it_can_hold_is_stored(store: Store, pool: asyncpg.Pool) -> None:
    await store.write([make_trade(2**63 - 2), make_trade(0)])

    assert await ledger(pool) == {"BTC/USDT": IdRanges.of([0, 2**63 - 2])}


# All or nothing


async def test_a_failure_leaves_nothing_of_the_batch(store: Store, pool: asyncpg.Pool) -> None:
    wrong = make_trade(3, side="neither")  # type: ignore[arg-type]

    with pytest.raises(asyncpg.CheckViolationError):
        await store.write([TRADES[0], wrong, make_trade(1, symbol="ETH/USDT")])

    assert await everything(pool) == ([], [], [])


async def test_after_a_failure_the_rest_can_be_written(store: Store, pool: asyncpg.Pool) -> None:
    wrong = make_trade(3, side="neither")  # type: ignore[arg-type]
    with pytest.raises(asyncpg.CheckViolationError):
        await store.write([*TRADES[:2], wrong])

    stored = await store.write(TRADES[:2])

    assert stored.new_trades == 2
    assert await stored_trades(pool) == TRADES[:2]


async def test_trades_of_a_whole_history_find_their_place(store: Store, pool: asyncpg.Pool) -> None:
    times = [
        datetime(2013, 10, 6, 21, 34, 16, tzinfo=UTC),
        datetime(2024, 2, 29, 12, tzinfo=UTC),
        datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
    ]
    trades = [make_trade(id_, at) for id_, at in enumerate(times, 1)]

    await store.write(list(reversed(trades)))

    assert await stored_trades(pool) == trades
    assert [row.candle.timestamp for row in await stored_candles(pool)] == [
        t.replace(second=0, microsecond=0) for t in times
    ]
