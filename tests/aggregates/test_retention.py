"""Partitions made ahead, and old ones dropped: never the ledger, never history, never what is still to be refreshed."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from jobs.partitions import retention_cutoffs
from kraken_history.records import TimeRange
from kraken_history.settings import Settings
from kraken_history.storing.aggregates import RefreshIsRunning, refresh, sole_refresher
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.storing.partitions import make_partitions_ahead
from kraken_history.storing.retention import drop_old
from kraken_history.storing.store import Store
from tests.aggregates.test_history_is_kept import everything, history
from tests.aggregates.truth import materialized, shown
from tests.support.contents import ledger
from tests.support.examples import make_candle, make_trade

OLD = datetime(2025, 3, 3, tzinfo=UTC)
NOW = OLD + timedelta(days=100)
DAY = timedelta(days=1)


async def oldest(pool: asyncpg.Pool, table: str) -> datetime:
    moment: datetime = await pool.fetchval(f"SELECT min(timestamp) FROM {table}")  # noqa: S608 — names of ours
    return moment


def test_retention_is_off_until_it_is_set() -> None:
    assert retention_cutoffs(Settings(), NOW) == {}


def test_each_setting_is_about_its_tables() -> None:
    settings = Settings(
        retention_trades_days=90, retention_candles_days=365, retention_minutes_days=730, retention_hours_days=1825
    )

    assert {table: (NOW - cutoff).days for table, cutoff in retention_cutoffs(settings, NOW).items()} == {
        "trades": 90,
        "candles": 365,
        "candles_5m": 730,
        "candles_15m": 730,
        "candles_30m": 730,
        "candles_1h": 1825,
        "candles_4h": 1825,
    }


async def test_old_trades_and_candles_go_and_ledger_and_intervals_stay(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())
    await refresh(pool, now=NOW)
    before, held = await everything(pool), await ledger(pool)

    dropped = await drop_old(pool, {"trades": OLD + 10 * DAY, "candles": OLD + 16 * DAY}, now=NOW)
    again = await drop_old(pool, {"trades": OLD + 10 * DAY, "candles": OLD + 16 * DAY}, now=NOW)

    assert dropped["trades"] == 10
    assert dropped["candles"] in (2, 3)  # chunks do not begin on a Monday
    assert again == {"trades": 0, "candles": 0}
    assert OLD + 10 * DAY <= await oldest(pool, "trades") < OLD + 11 * DAY
    assert OLD + 9 * DAY < await oldest(pool, "candles") <= OLD + 17 * DAY
    assert (await everything(pool), await ledger(pool)) == (before, held)


async def test_what_was_dropped_comes_neither_back_nor_twice(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())
    await drop_old(pool, {"trades": OLD + 16 * DAY, "candles": OLD + 16 * DAY}, now=NOW)
    before = await everything(pool)

    stored = await Store(pool).write(history())
    await refresh(pool, now=NOW)

    assert (stored.new_trades, stored.known_trades) == (0, len(history()))
    assert await everything(pool) == before


async def test_it_is_kept_which_time_was_dropped(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())
    first = {table: await oldest(pool, table) for table in ("trades", "candles")}
    await drop_old(pool, {"trades": OLD + 10 * DAY, "candles": OLD + 8 * DAY}, now=NOW)
    await drop_old(pool, {"candles": OLD + 16 * DAY}, now=NOW)

    for table in ("trades", "candles"):
        (dropped,) = await dropped_ranges(pool, table)
        assert dropped.start <= first[table]
        assert OLD + 9 * DAY < dropped.end <= await oldest(pool, table) < dropped.end + DAY


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_time_whose_drop_fails_is_not_kept_as_dropped(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())
    await pool.execute(f"CREATE VIEW in_the_way AS TABLE candles_{OLD + 7 * DAY:%Y%m%d}")

    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await drop_old(pool, {"candles": OLD + 16 * DAY}, now=NOW)

    assert await dropped_ranges(pool, "candles") == [TimeRange(OLD, OLD + 7 * DAY)]
    assert await oldest(pool, "candles") >= OLD + 7 * DAY


async def dropped_ranges(pool: asyncpg.Pool, table: str) -> list[TimeRange]:
    ranges = await pool.fetchval("SELECT ranges FROM dropped_ranges WHERE relation = $1", table)
    return [TimeRange(each.lower, each.upper) for each in ranges]


async def test_candles_that_are_not_refreshed_yet_are_refreshed_first(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())

    dropped = await drop_old(pool, {"candles": OLD + 40 * DAY}, now=NOW)

    assert dropped["candles"] >= 4
    assert [await materialized(pool, aggregate) for aggregate in AGGREGATES] == [
        len(await shown(pool, aggregate)) for aggregate in AGGREGATES
    ]
    assert len(await shown(pool, AGGREGATES[7])) == 4


async def test_candles_of_a_bucket_that_is_open_are_left(pool: asyncpg.Pool, store: Store) -> None:
    await store.write(history())
    now = OLD + 25 * DAY  # a Friday

    await drop_old(pool, {"candles": now}, now=now)

    assert await oldest(pool, "candles") <= OLD + 21 * DAY + timedelta(hours=2)


async def test_candles_that_are_written_meanwhile_are_left(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write(history())

    async def write(*arguments: object, **options: object) -> None:
        await Store(pool).write((), [make_candle(OLD + 3 * DAY, symbol="ETH/USDT")])

    await refresh(pool, now=NOW)
    with monkeypatch.context() as patch:
        patch.setattr("kraken_history.storing.retention.refresh", write)
        await drop_old(pool, {"candles": OLD + 40 * DAY}, now=NOW)
    await refresh(pool, now=NOW)

    assert ("ETH/USDT", OLD) in await shown(pool, AGGREGATES[7])


async def test_longer_intervals_go_by_their_own_settings(pool: asyncpg.Pool, store: Store) -> None:
    await store.write([make_trade(n, OLD + n * 10 * DAY) for n in range(1, 150)])
    now = OLD + 1600 * DAY
    await refresh(pool, now=now)
    before = await everything(pool)
    settings = Settings(retention_minutes_days=700, retention_hours_days=800)

    await drop_old(pool, retention_cutoffs(settings, now), now=now)
    await refresh(pool, now=now)

    after = await everything(pool)
    for view in ("candles_5m", "candles_15m", "candles_30m", "candles_1h", "candles_4h"):
        assert 0 < len(after[view]) < len(before[view]), view
    for view in ("candles_12h", "candles_1d", "candles_1w"):
        assert after[view] == before[view]


# On TimescaleDB its own compression, which waits for readers without a limit, would be in the way too.
@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_reader_in_the_way_postpones_a_drop(
    pool: asyncpg.Pool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kraken_history.storing.retention._LOCK_TIMEOUT_MS", 50)
    pieces: list[tuple[str, str]] = []
    await store.write(history())
    async with pool.acquire() as reader, reader.transaction():
        await reader.fetch("SELECT count(*) FROM candles")
        postponed = await drop_old(
            pool, {"candles": OLD + 16 * DAY}, now=NOW, on_postponed=lambda *piece: pieces.append(piece)
        )
    done = await drop_old(pool, {"candles": OLD + 16 * DAY}, now=NOW)

    assert postponed == {"candles": 0}
    assert pieces == [("candles", f"candles_{OLD:%Y%m%d}")]
    assert done["candles"] > 0


async def test_nothing_is_dropped_while_a_refresh_runs(pool: asyncpg.Pool) -> None:
    async with sole_refresher(pool):
        with pytest.raises(RefreshIsRunning):
            await drop_old(pool, {"candles": NOW})


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_partitions_are_made_for_a_week_ahead(pool: asyncpg.Pool) -> None:
    made = await make_partitions_ahead(pool, now=NOW)
    names = {row[0] for row in await pool.fetch("SELECT inhrelid::regclass::text FROM pg_inherits")}

    assert made == 8 + 2 + 1
    assert {f"trades_{NOW + n * DAY:%Y%m%d}" for n in range(8)} < names
    assert await make_partitions_ahead(pool, now=NOW) == 0
    assert await make_partitions_ahead(pool, now=NOW + DAY) == 1


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_hypertables_need_no_partitions(pool: asyncpg.Pool) -> None:
    assert await make_partitions_ahead(pool, now=NOW) == 0
