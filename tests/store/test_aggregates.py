"""The eight longer intervals: the same on both kinds of server, and equal to grouping the candles by hand."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from itertools import groupby

import asyncpg
import pytest

from kraken_history.records import EXACT, HistoricalCandle, truncated_vwap
from kraken_history.storing.candle_rules import vwap
from kraken_history.storing.store import Store
from tests.support.contents import CANDLE_COLUMNS
from tests.support.examples import NOON, SYMBOLS, make_candle

VIEWS = {
    "candles_5m": 5,
    "candles_15m": 15,
    "candles_30m": 30,
    "candles_1h": 60,
    "candles_4h": 240,
    "candles_12h": 720,
    "candles_1d": 1440,
    "candles_1w": 10080,
}
A_MONDAY = datetime(2000, 1, 3, tzinfo=UTC)

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def random_candles(count: int, *, seed: int) -> list[HistoricalCandle]:
    """Over three weeks and a new year, quiet minutes between them, some of them right at the borders."""
    chance = random.Random(seed)
    start = datetime(2025, 12, 22, tzinfo=UTC)
    minutes = set(chance.sample(range(21 * 1440), count)) | {0, 7 * 1440 - 1, 7 * 1440, 10 * 1440 - 1, 10 * 1440}
    candles = []
    for minute in sorted(minutes):
        for symbol in SYMBOLS[:2]:
            prices = sorted(Decimal(chance.randrange(1, 10**8)).scaleb(-chance.randrange(9)) for _ in range(4))
            volume = Decimal(chance.randrange(0, 10**10)).scaleb(-8)
            quote = Decimal(chance.randrange(10**14)).scaleb(-chance.randrange(12)) if volume else Decimal(0)
            candles.append(
                HistoricalCandle(
                    symbol, start + timedelta(minutes=minute), 1, prices[1], prices[3], prices[0], prices[2], volume,
                    quote, chance.randrange(1, 100), truncated_vwap(quote, volume),
                )
            )  # fmt: skip
    return candles


def grouped(candles: Sequence[HistoricalCandle], minutes: int) -> list[HistoricalCandle]:
    """What a plain GROUP BY would make of one-minute candles."""

    def bucket(candle: HistoricalCandle) -> tuple[str, datetime]:
        return candle.symbol, A_MONDAY + (candle.timestamp - A_MONDAY) // width * width

    width = timedelta(minutes=minutes)
    longer = []
    with localcontext(EXACT):
        for (symbol, start), of_bucket in groupby(sorted(candles, key=lambda c: (c.symbol, c.timestamp)), key=bucket):
            group = list(of_bucket)
            volume, quote = sum(c.volume for c in group), sum(c.quote_volume for c in group)
            longer.append(
                HistoricalCandle(
                    symbol, start, minutes, group[0].open, max(c.high for c in group), min(c.low for c in group),
                    group[-1].close, Decimal(volume), Decimal(quote), sum(c.trade_count for c in group),
                    truncated_vwap(Decimal(quote), Decimal(volume)),
                )
            )  # fmt: skip
    return longer


async def rows_of(pool: asyncpg.Pool, view: str) -> list[HistoricalCandle]:
    rows = await pool.fetch(f"SELECT {CANDLE_COLUMNS} FROM {view} ORDER BY symbol, timestamp")  # noqa: S608
    return [HistoricalCandle(*row) for row in rows]


async def test_all_views_have_the_same_columns_and_types(pool: asyncpg.Pool) -> None:
    query = """
        SELECT attname || ' ' || format_type(atttypid, atttypmod)
        FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum
    """
    for view in VIEWS:
        columns = [row[0] for row in await pool.fetch(query, view)]
        assert columns == [
            "symbol text", "timestamp timestamp with time zone", "interval_minutes smallint", "open numeric",
            "high numeric", "low numeric", "close numeric", "volume numeric", "quote_volume numeric",
            "trade_count bigint", "vwap numeric", "source candle_source",
        ], view  # fmt: skip


async def test_every_view_is_a_plain_grouping_of_the_candles_without_any_refresh(
    store: Store, pool: asyncpg.Pool
) -> None:
    candles = random_candles(150, seed=1)

    await store.write(candles=candles)

    for view, minutes in VIEWS.items():
        assert await rows_of(pool, view) == grouped(candles, minutes), view


async def test_a_change_is_seen_at_once(store: Store, pool: asyncpg.Pool) -> None:
    candles = random_candles(20, seed=2)
    await store.write(candles=candles)
    more = [
        make_candle(candles[-1].timestamp + timedelta(minutes=2)),
        make_candle(candles[0].timestamp, trade_count=999),
    ]

    await store.write(candles=more)

    kept = [c for c in candles if (c.symbol, c.timestamp) != (more[1].symbol, more[1].timestamp)]
    for view, minutes in VIEWS.items():
        assert await rows_of(pool, view) == grouped([*kept, *more], minutes), view


async def test_weeks_start_on_monday_and_days_at_midnight_utc(store: Store, pool: asyncpg.Pool) -> None:
    sunday_night = datetime(2026, 1, 4, 23, 59, tzinfo=UTC)

    await store.write(candles=[make_candle(sunday_night), make_candle(sunday_night + timedelta(minutes=1))])

    assert [candle.timestamp for candle in await rows_of(pool, "candles_1w")] == [
        datetime(2025, 12, 29, tzinfo=UTC),
        datetime(2026, 1, 5, tzinfo=UTC),
    ]
    assert [candle.timestamp for candle in await rows_of(pool, "candles_1d")] == [
        datetime(2026, 1, 4, tzinfo=UTC),
        datetime(2026, 1, 5, tzinfo=UTC),
    ]


async def test_a_bucket_without_volume_has_no_vwap(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(candles=[make_candle(volume="0")])

    assert {(candle.vwap, candle.volume) for view in VIEWS for candle in await rows_of(pool, view)} == {
        (Decimal(0),) * 2
    }


async def test_sql_cuts_a_vwap_where_python_does(pool: asyncpg.Pool) -> None:
    chance = random.Random(3)
    pairs = [
        (Decimal(chance.randrange(10**18)).scaleb(-chance.randrange(16)), Decimal(chance.randrange(10**12)).scaleb(-8))
        for _ in range(500)
    ]
    pairs += [(Decimal("5"), Decimal(0)), (Decimal("1E-10"), Decimal(1)), (Decimal("9.9E-11"), Decimal(1))]

    rows = await pool.fetch(
        f"""
        SELECT coalesce({vwap("quote", "nullif(volume, 0)")}, 0) AS vwap
        FROM unnest($1::numeric[], $2::numeric[]) WITH ORDINALITY AS p (quote, volume, at) ORDER BY at
        """,  # noqa: S608 — only constants are put in
        [quote for quote, _ in pairs],
        [volume for _, volume in pairs],
    )

    assert [row["vwap"] for row in rows] == [truncated_vwap(quote, volume) for quote, volume in pairs]


@plain_only
async def test_what_is_materialised_comes_from_the_table_and_the_rest_from_the_candles(
    store: Store, pool: asyncpg.Pool
) -> None:
    minutes = [NOON + timedelta(minutes=n) for n in range(0, 20, 5)]
    await store.write(candles=[make_candle(minute) for minute in minutes])
    for minute in (minutes[0], minutes[3]):  # the second lies past the border, and must not be seen
        await pool.execute(
            """
            INSERT INTO candles_5m_rows
                (symbol, timestamp, open, high, low, close, volume, quote_volume, trade_count, vwap)
            VALUES ('BTC/USDT', $1, 1, 1, 1, 1, 1, 1, 77, 1)
            """,
            minute,
        )
    await pool.execute(
        "UPDATE candle_aggregates SET materialized_until = $1 WHERE name = 'candles_5m'", NOON + timedelta(minutes=10)
    )

    rows = await rows_of(pool, "candles_5m")
    assert [(row.timestamp, row.trade_count) for row in rows] == [(minutes[0], 77), (minutes[2], 3), (minutes[3], 3)]
    assert {row.interval_minutes for row in rows} == {5}


@plain_only
async def test_longer_intervals_are_made_of_what_is_materialised(store: Store, pool: asyncpg.Pool) -> None:
    await store.write(candles=[make_candle(NOON)])
    await pool.execute(
        """
        INSERT INTO candles_1h_rows (symbol, timestamp, open, high, low, close, volume, quote_volume, trade_count, vwap)
        VALUES ('BTC/USDT', $1, 5, 9, 4, 7, 2, 12, 40, 6)
        """,
        NOON - timedelta(hours=1),
    )
    await pool.execute("UPDATE candle_aggregates SET materialized_until = $1 WHERE name = 'candles_1h'", NOON)

    (day,) = await rows_of(pool, "candles_1d")
    assert (day.open, day.close, day.low) == (Decimal(5), Decimal("101.5"), Decimal(4))
    assert day.trade_count == 43
    (week,) = await rows_of(pool, "candles_1w")
    assert week.trade_count == 43
