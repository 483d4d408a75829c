"""Files in a database: exactly what they say, once, and beside what is there."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import msgspec
import pytest

from kraken_history.csv_import import CsvError, CsvFile, CsvImporter, Imported, Phase, Skipped, found_files
from kraken_history.database.connections import create_pool
from kraken_history.errors import UsageError
from kraken_history.kraken.rest import decode_asset_pairs, decode_result
from kraken_history.records import HistoricalCandle
from kraken_history.storing import candle_series
from kraken_history.storing.announcing import CANDLES_CHANNEL
from kraken_history.storing.store import Store
from kraken_history.symbols import Pair
from tests.csv_import.conftest import Import, no_kraken
from tests.support.contents import everything, only_candle, stale_hours, stored_candles, sync_status
from tests.support.csv_files import START, START_S, candle_line, column_sum, trade_line, write, write_zip
from tests.support.database import deadlock
from tests.support.examples import make_candle, make_trade
from tests.support.servers import Background

MINUTE = timedelta(minutes=1)
POSTGRESQL = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


async def contents(pool: asyncpg.Pool) -> object:
    """All rows, in which transactions they were written, and the state of the refreshing."""
    return (
        await everything(pool),
        await pool.fetch("SELECT symbol, last_sync_at FROM data_sync_status ORDER BY symbol"),
        await pool.fetch("SELECT timestamp, xmin::text FROM candles ORDER BY symbol, timestamp"),
    )


@pytest.mark.parametrize("place", ["alone", "folder", "zip"])
async def test_a_recorded_file_of_candles_is_stored_exactly(
    place: str, recordings: Path, tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    recorded = recordings / "csv/BTCUSDC_1.csv"
    path = recorded
    if place == "folder":
        path = tmp_path / "quarter"
        (path / "2023/Q1").mkdir(parents=True)
        (path / "2023/Q1/BTCUSDC_1.csv").write_bytes(recorded.read_bytes())
    elif place == "zip":
        path = write_zip(tmp_path / "Kraken_OHLCVT.zip", {"master/q1/BTCUSDC_1.csv": recorded.read_bytes()})

    (outcome,) = await import_csv(path, symbol="BTC/USDC")

    row = await pool.fetchrow(
        "SELECT count(*), sum(volume) AS volume, sum(trade_count) AS trades, min(timestamp), max(timestamp)"
        " FROM candles WHERE symbol = 'BTC/USDC' AND interval_minutes = 1 AND source = 'csv'"
    )
    assert row is not None
    assert isinstance(outcome, Imported)
    assert (outcome.rows, outcome.candles, outcome.new_candles, outcome.replaced_candles) == (56_717, 56_717, 56_717, 0)
    assert row["count"] == 56_717
    assert row["volume"] == column_sum(recorded, 5)
    assert row["trades"] == column_sum(recorded, 6)
    assert (row["min"], row["max"]) == (outcome.start, outcome.end - MINUTE)


async def test_longer_candles_beside_minutes_are_skipped_with_the_reason(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    write(tmp_path / "xbtusdt_1.csv", [candle_line(0)])
    write(tmp_path / "XBTUSDT_60.csv", [candle_line(0)])

    outcomes = await import_csv(tmp_path)

    (skipped,) = (outcome for outcome in outcomes if isinstance(outcome, Skipped))
    assert skipped.reason == "candles of 60 minutes are computed from those of one minute"
    assert await pool.fetchval("SELECT count(*) FROM longer_candles") == 0


async def test_weeks_are_skipped_with_the_reason(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    """Kraken's weeks begin on Thursday."""
    (outcome,) = await import_csv(write(tmp_path / "XBTUSDT_10080.csv", [candle_line(0)]))

    assert isinstance(outcome, Skipped)
    assert await everything(pool) == ([], [], [])


async def test_every_row_of_time_and_sales_counts(recordings: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    recorded = recordings / "csv/BCHEUR.csv"
    lines = recorded.read_text().splitlines()

    (outcome,) = await import_csv(recorded, symbol="BCH/EUR")

    candles = [row.candle for row in await stored_candles(pool)]
    assert isinstance(outcome, Imported)
    assert len(set(lines)) < len(lines)  # identical rows are trades too
    assert (outcome.rows, sum(c.trade_count for c in candles)) == (148, 148)
    assert str(sum(c.volume for c in candles)) == str(column_sum(recorded, 2)) == "426.64478477"
    products = [Decimal(price) * Decimal(volume) for _, price, volume in (line.split(",") for line in lines)]
    assert sum(c.quote_volume for c in candles) == sum(products)


async def test_a_candle_gets_the_typical_price_for_a_vwap(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    await import_csv(write(tmp_path / "XBTUSDT_1.csv", [f"{START_S},100.0,102.0,99.0,101.5,1E+1,3"]))

    vwap = Decimal("100.8333333333")
    row = await only_candle(pool)
    assert row.candle == HistoricalCandle(
        "BTC/USDT", START, 1, Decimal(100), Decimal(102), Decimal(99), Decimal("101.5"), Decimal(10), vwap * 10, 3,
        vwap, "csv",
    )  # fmt: skip
    assert (row.source, row.first_trade_id, row.last_trade_id) == ("csv", None, None)


async def test_trades_make_the_candles_that_they_say(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    lines = [trade_line(1, "100.0", "0.10"), trade_line(1, "100.0", "0.10"), trade_line(59, "99.5", "0.30")]
    lines += [trade_line(190, "103.0", "1E+1")]

    await import_csv(write(tmp_path / "XBTUSDT.csv", lines))

    first, second = [row.candle for row in await stored_candles(pool)]
    hundred, low = Decimal(100), Decimal("99.5")
    assert first == HistoricalCandle(
        "BTC/USDT", START, 1, hundred, hundred, low, low, Decimal("0.5"), Decimal("49.85"), 3, Decimal("99.7"),
        "csv",
    )  # fmt: skip
    assert (second.timestamp, second.volume, second.trade_count) == (START + 3 * MINUTE, Decimal(10), 1)


@pytest.mark.parametrize("name", ["XBTUSDT_1.csv", "XBTUSDT.csv"])
async def test_a_second_import_changes_nothing(
    name: str, tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    lines = [candle_line(m) if "_1" in name else trade_line(60 * m) for m in (0, 1, 5, 70, 20_000)]
    path = write(tmp_path / name, lines)
    (first,) = await import_csv(path)
    before = await contents(pool)

    (second,) = await import_csv(path)

    assert isinstance(first, Imported)
    assert isinstance(second, Imported)
    assert (first.new_candles, second.new_candles, second.replaced_candles) == (5, 0, 0)
    assert await contents(pool) == before


async def test_the_fuller_candle_stays_until_the_trades_are_proven_complete(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    trades = [make_trade(n, START + timedelta(seconds=15 * n), f"10{n}.0") for n in range(12)]  # four in each minute
    await Store(pool).write(trades[:8])
    path = write(
        tmp_path / "XBTUSDT_1.csv", [candle_line(0, trades=4), candle_line(1, trades=5), candle_line(2, trades=4)]
    )

    (outcome,) = await import_csv(path)
    between = [(row.source, row.candle.trade_count) for row in await stored_candles(pool)]
    await Store(pool).write(trades[8:])
    after = [(row.source, row.candle.trade_count) for row in await stored_candles(pool)]

    assert isinstance(outcome, Imported)
    assert (outcome.new_candles, outcome.replaced_candles) == (1, 1)
    assert between == [("trades", 4), ("csv", 5), ("csv", 4)]
    assert after == [("trades", 4), ("trades", 4), ("trades", 4)]


async def test_a_file_does_not_replace_a_candle_whose_trades_are_proven_complete(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    """The minute of the newest trade is not proven yet. It is contested until a later trade is stored."""
    await Store(pool).write([make_trade(n, START + timedelta(seconds=15 * n)) for n in range(12)])
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(minute, trades=5) for minute in (1, 2)])

    (outcome,) = await import_csv(path)
    between = [(row.source, row.candle.trade_count) for row in await stored_candles(pool)]
    await Store(pool).write([make_trade(12, START + timedelta(seconds=180))])
    after = [(row.source, row.candle.trade_count) for row in await stored_candles(pool)]

    assert isinstance(outcome, Imported)
    assert (outcome.new_candles, outcome.replaced_candles) == (0, 1)
    assert between == [("trades", 4), ("trades", 4), ("csv", 5)]
    assert after == [("trades", 4), ("trades", 4), ("trades", 4), ("trades", 1)]


async def test_the_exchanges_candle_gives_way_to_one_that_is_as_full(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0, trades=4)])
    await Store(pool).write(candles=[make_candle(START, trade_count=4)])

    await import_csv(path)
    stronger = await only_candle(pool)
    await Store(pool).write(candles=[make_candle(START, trade_count=4)])

    assert stronger.source == "csv"
    assert await only_candle(pool) == stronger


async def test_coverage_figures_and_stale_hours_follow_the_file(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    await import_csv(write(tmp_path / "XBTUSDT_1.csv", [candle_line(m) for m in (58, 61, 300)]))
    await import_csv(write(tmp_path / "XBTUSDT_1.csv", [candle_line(m) for m in (300, 301)]))

    status = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert status is not None
    assert (status["total_records"], status["oldest_timestamp"]) == (4, START + 58 * MINUTE)
    assert status["newest_timestamp"] == START + 301 * MINUTE
    assert [(r.lower, r.upper) for r in status["time_ranges"]] == [(START + 58 * MINUTE, START + 302 * MINUTE)]
    hour = 60 * MINUTE
    assert await stale_hours(pool, "BTC/USDT") == [(START, START + 2 * hour), (START + 5 * hour, START + 6 * hour)]


async def test_only_hours_that_changed_become_stale(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    await import_csv(write(tmp_path / "XBTUSDT_1.csv", [candle_line(m) for m in (0, 60, 120)]))
    await pool.execute("DELETE FROM stale_hours")

    lines = [candle_line(0), candle_line(60, trades=9), candle_line(119), candle_line(120)]
    await import_csv(write(tmp_path / "XBTUSDT_1.csv", lines))

    status = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert status is not None
    assert status["total_records"] == 4
    assert await stale_hours(pool, "BTC/USDT") == [(START + 60 * MINUTE, START + 120 * MINUTE)]


async def test_the_last_minute_of_a_file_of_trades_is_not_proven(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    await import_csv(write(tmp_path / "XBTUSDT.csv", [trade_line(60), trade_line(500)]))

    status = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert status is not None
    assert [(r.lower, r.upper) for r in status["time_ranges"]] == [(START + MINUTE, START + 8 * MINUTE)]
    assert len(await stored_candles(pool)) == 2


async def test_followers_are_told(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with pool.acquire() as listener:
        await listener.add_listener(CANDLES_CHANNEL, lambda *arguments: told.put_nowait(str(arguments[3])))

        await import_csv(write(tmp_path / "XBTUSDT_1.csv", [candle_line(0), candle_line(3)]))

        assert json.loads(await asyncio.wait_for(told.get(), 10)) == [["BTC/USDT", START_S, START_S + 180]]
        await listener.reset()


@POSTGRESQL
async def test_an_import_waits_for_whoever_writes_the_symbol(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    await Store(pool).write([make_trade(1, START)])
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0, trades=9)])
    async with pool.acquire() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("SELECT FROM sync_keys WHERE symbol = 'BTC/USDT' FOR UPDATE")
        importing = asyncio.ensure_future(import_csv(path))
        while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await only_candle(pool)).source == "trades"
        await transaction.commit()
    await importing

    assert (await only_candle(pool)).source == "csv"


@POSTGRESQL
async def test_a_writer_without_the_lock_makes_the_import_merge(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(0), candle_line(1)])
    await import_csv(write(tmp_path / "ETHUSDT_1.csv", [candle_line(0, trades=9)]))
    async with pool.acquire() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(
            "INSERT INTO candles SELECT 'BTC/USDT', timestamp, 1, open, high, low, close, volume, quote_volume,"
            " trade_count, vwap, source FROM candles"
        )
        importing = asyncio.ensure_future(import_csv(path))
        while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await transaction.commit()
    (outcome,) = await importing

    assert isinstance(outcome, Imported)
    assert (outcome.new_candles, outcome.replaced_candles) == (1, 0)
    counts = [row.candle.trade_count for row in await stored_candles(pool) if row.candle.symbol == "BTC/USDT"]
    assert counts == [9, 3]


@POSTGRESQL
@pytest.mark.parametrize("stands", [False, True])
async def test_live_trades_need_not_wait_while_a_file_is_read(
    tmp_path: Path,
    migrated_database_url: str,
    pool: asyncpg.Pool,
    background: Background,
    import_csv: Import,
    stands: bool,
) -> None:
    # The lock was taken first: a symbol's live trades waited in their stream for as long as a file took.
    now = START + timedelta(days=400)
    path = tmp_path / "XBTUSDT_1.csv"
    if stands:
        await import_csv(write(path, [candle_line(minute) for minute in (7, 70)]))
    write(path, [candle_line(minute, trades=4) for minute in range(4_000)])
    elsewhere = background.run(create_pool(migrated_database_url, min_size=1, max_size=1))
    trades = (make_trade(number, now + timedelta(seconds=number)) for number in range(1, 100))

    def write_live(_: CsvFile, phase: Phase, __: int) -> None:
        if phase == "merging":
            return
        background.run(asyncio.wait_for(Store(elsewhere).write([next(trades)]), 20))

    with found_files([path]) as (files, _):
        (outcome,) = [outcome async for outcome in CsvImporter(pool, no_kraken).import_files(files, write_live)]
    background.run(elsewhere.close())

    assert isinstance(outcome, Imported)
    assert (outcome.new_candles, outcome.replaced_candles) == ((3_998, 2) if stands else (4_000, 0))
    assert await pool.fetchval("SELECT count(*) FROM trades") == 100 - len(list(trades)) - 1 > 1


@POSTGRESQL
@pytest.mark.parametrize("stands", [False, True])
async def test_a_writer_who_waits_for_the_import_with_the_lock_in_his_hand_does_not_stop_it(
    tmp_path: Path, migrated_database_url: str, pool: asyncpg.Pool, import_csv: Import, stands: bool
) -> None:
    # He has locked the symbol and waits for a minute that the import has written; the import wants the lock.
    if stands:
        await Store(pool).write([make_trade(1, START + 3_000 * MINUTE)])
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(minute) for minute in range(20_000)])
    trades = [make_trade(10 + n, START + timedelta(seconds=10 * n)) for n in range(5)]  # of the first minute
    patient = {"deadlock_timeout": "60s"}  # so that it is the import that gives in
    writing: list[asyncio.Future[object]] = []

    async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=1, server_settings=patient) as others:

        def start(_: CsvFile, phase: Phase, done: int) -> None:
            if phase == "reading" and not writing and done > 500_000:  # the first minute has been written by now
                writing.append(asyncio.ensure_future(Store(others).write(trades)))

        with found_files([path]) as (files, _):
            (outcome,) = [outcome async for outcome in CsvImporter(pool, no_kraken).import_files(files, start)]
        await asyncio.gather(*writing)

    first = (await stored_candles(pool))[0]
    assert isinstance(outcome, Imported)
    assert (first.source, first.candle.trade_count) == ("trades", 5)
    status = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert status is not None
    assert status["total_records"] == await pool.fetchval("SELECT count(*) FROM candles") == 20_000


async def test_two_imports_of_a_file_at_once_are_one(tmp_path: Path, pool: asyncpg.Pool, import_csv: Import) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(minute) for minute in range(3_000)])

    outcomes = [outcome for (outcome,) in await asyncio.gather(import_csv(path), import_csv(path))]

    figures = [(o.new_candles, o.replaced_candles) for o in outcomes if isinstance(o, Imported)]
    assert sorted(figures) == [(0, 0), (3_000, 0)]
    status = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert status is not None
    assert status["total_records"] == await pool.fetchval("SELECT count(*) FROM candles") == 3_000


@POSTGRESQL
@pytest.mark.parametrize("stands", [False, True])
async def test_imports_of_one_symbol_take_turns_and_those_of_others_do_not_wait(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import, stands: bool
) -> None:
    # Each had rows that the other one met: of two that wrote overlapping minutes, with a live trade in between, one
    # could hold the lock and wait for the other's rows, and both deadlock again when it was tried anew.
    await Store(pool).write([make_trade(1, START + (15 if stands else 300) * MINUTE)])
    for folder, minutes in (("one", range(20)), ("two", range(10, 30))):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "XBTUSDT_1.csv", [candle_line(minute) for minute in minutes])
    reading: list[int] = []

    def read(_: CsvFile, phase: Phase, done: int) -> None:
        if phase == "reading":
            reading.append(done)

    async def import_second() -> list[object]:
        with found_files([tmp_path / "two"]) as (files, _):
            importer = CsvImporter(pool, no_kraken)
            return [outcome async for outcome in importer.import_files(files, read)]

    async def are_waiting(count: int) -> None:
        while await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async with pool.acquire() as writer, writer.transaction():
        await writer.execute("SELECT FROM sync_keys WHERE symbol = 'BTC/USDT' FOR UPDATE")
        first = asyncio.ensure_future(import_csv(tmp_path / "one"))
        await are_waiting(1)
        second = asyncio.ensure_future(import_second())
        await are_waiting(2)
        read_before_its_turn = list(reading)
        others = await import_csv(write(tmp_path / "ETHUSDT_1.csv", [candle_line(0)]))
    outcomes = [*others, *await first, *await second]

    assert read_before_its_turn == []
    new = [outcome.new_candles for outcome in outcomes if isinstance(outcome, Imported)]
    assert new == [1, 19 if stands else 20, 10]


@POSTGRESQL
@pytest.mark.parametrize("stands", [False, True])
async def test_a_deadlock_in_the_repeated_write_too_does_not_end_the_import(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import, stands: bool
) -> None:
    # The second one was taken for a database that is away, and the files that were left were not imported.
    if stands:
        await Store(pool).write([make_trade(1, START + 5 * MINUTE)])
    await deadlock(pool, times=2)
    paths = [write(tmp_path / f"{name}_1.csv", [candle_line(m) for m in range(10)]) for name in ("XBTUSDT", "ETHUSDT")]

    outcomes = await import_csv(*paths)

    assert [o.new_candles for o in outcomes if isinstance(o, Imported)] == [9 if stands else 10, 10]


async def test_a_file_that_is_wrong_in_the_middle_leaves_nothing(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    lines = [candle_line(m) for m in range(30_000)]
    lines[20_000] = candle_line(7)
    lines[25_000:] = []
    first, second = write(tmp_path / "XBTUSDT_1.csv", lines), write(tmp_path / "ETHUSDT_1.csv", [candle_line(0)])

    refused, imported = await import_csv(first, second)

    assert isinstance(refused, CsvError)
    assert (refused.file, refused.line) == (str(first), 20_001)
    assert "must be after the time of the previous line" in refused.reason
    assert isinstance(imported, Imported)
    assert {row.candle.symbol for row in await stored_candles(pool)} == {"ETH/USDT"}
    assert await sync_status(pool, "BTC/USDT", "candles_1m") is None


async def test_a_line_of_a_later_day_in_the_middle_is_the_files_fault_not_the_databases(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    lines = [candle_line(m) for m in range(5_000)]
    lines[10] = candle_line(500_000)

    (refused,) = await import_csv(write(tmp_path / "XBTUSDT_1.csv", lines))

    assert isinstance(refused, CsvError)
    assert refused.line == 12
    assert await stored_candles(pool) == []


@POSTGRESQL
async def test_a_refused_file_leaves_merged_candles_alone(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    await import_csv(write(tmp_path / "XBTUSDT_1.csv", [candle_line(0)]))
    before = await contents(pool)

    (refused,) = await import_csv(write(tmp_path / "XBTUSDT_1.csv", [candle_line(0, trades=9), "x", candle_line(2)]))

    assert isinstance(refused, CsvError)
    assert await contents(pool) == before


@POSTGRESQL
async def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, pool: asyncpg.Pool) -> None:
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(m) for m in range(3_000)])

    minutes = iter(range(3_000, 3_010))

    def grow(_: CsvFile, phase: Phase, done: int) -> None:
        if phase != "reading":
            return
        with path.open("a") as file:
            file.writelines(candle_line(minute) + "\n" for minute in minutes)

    with found_files([path]) as (files, _):
        (outcome,) = [outcome async for outcome in CsvImporter(pool, no_kraken).import_files(files, grow)]

    assert isinstance(outcome, CsvError)
    assert "the file changed while it was read" in outcome.reason
    assert await stored_candles(pool) == []


async def test_a_decade_of_few_candles_comes_in_and_changes_nothing_when_it_comes_again(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    # Each of its weeks is a partition or chunk of its own, whose locks one transaction holds at once.
    hours = range(-7 * 365 * 24, 3 * 365 * 24, 7)
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(60 * hour) for hour in hours])
    compress = "SELECT count(compress_chunk(c)) FROM show_chunks('candles', older_than => '2017-01-01'::timestamptz) c"
    has_chunks = await pool.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")

    (first,) = await import_csv(path)
    if has_chunks:
        assert await pool.fetchval(compress) > 50
    (again,) = await import_csv(path)
    path.write_text(path.read_text().replace(",101.5,2.50,3\n", ",101.5,2.50,4\n", 3))
    (fuller,) = await import_csv(path)

    assert isinstance(first, Imported)
    assert isinstance(again, Imported)
    assert isinstance(fuller, Imported)
    assert first.new_candles == await pool.fetchval("SELECT count(*) FROM candles") == len(hours) > 12_000
    assert (again.new_candles, again.replaced_candles) == (0, 0)
    assert (fuller.new_candles, fuller.replaced_candles) == (0, 3)


@POSTGRESQL
async def test_unknown_pairs_are_looked_up_once(
    tmp_path: Path, recordings: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    for name in ("XBTUSD_1.csv", "ETHUSD_1.csv", "NOSUCH_1.csv", "XBTUSDT_1.csv", "BTCUSD_1.csv"):
        write(tmp_path / name, [candle_line(0)])
    asked = 0

    async def fetch_pairs() -> list[Pair]:
        nonlocal asked
        asked += 1
        return decode_asset_pairs(
            decode_result(200, (recordings / "rest/asset_pairs_2021-04-17_304pairs.json").read_bytes())
        )

    with found_files([tmp_path]) as (files, _):
        outcomes = [outcome async for outcome in CsvImporter(pool, fetch_pairs).import_files(files)]

    assert asked == 1
    assert [getattr(o, "symbol", None) for o in outcomes] == ["BTC/USD", "ETH/USD", None, "BTC/USDT", "BTC/USD"]
    refused = outcomes[2]
    assert isinstance(refused, CsvError)
    assert refused.reason == "Kraken lists no pair NOSUCH: name the pair with --symbol BASE/QUOTE"


@POSTGRESQL
async def test_without_kraken_an_unknown_pair_needs_a_symbol(tmp_path: Path, import_csv: Import) -> None:
    path = write(tmp_path / "XBTAUSD_1.csv", [candle_line(0)])

    (refused,) = await import_csv(path)
    (imported,) = await import_csv(path, symbol="BTC/AUSD")

    assert isinstance(refused, CsvError)
    assert "Kraken could not be asked which pair XBTAUSD is (no answer from Kraken), and the name" in refused.reason
    assert "name the pair with --symbol" in refused.reason
    assert isinstance(imported, Imported)
    assert imported.symbol == "BTC/AUSD"


@POSTGRESQL
async def test_without_kraken_the_name_counts_and_with_it_kraken(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    path = write(tmp_path / "ADAUSD_1.csv", [candle_line(0)])

    async def fetch_pairs() -> list[Pair]:
        return [Pair("AD/AUSD", "ADAUSD", "ADAUSD", "AD/AUSD")]

    (alone,) = await import_csv(path)
    with found_files([path]) as (files, _):
        (asked,) = [outcome async for outcome in CsvImporter(pool, fetch_pairs).import_files(files)]

    assert isinstance(alone, Imported)
    assert isinstance(asked, Imported)
    assert (alone.symbol, alone.is_name_cut) == ("ADA/USD", True)
    assert (asked.symbol, asked.is_name_cut) == ("AD/AUSD", False)


@POSTGRESQL
async def test_of_what_is_no_download_no_pair_is_looked_up(tmp_path: Path, pool: asyncpg.Pool) -> None:
    write(tmp_path / "note.csv", ["Dear Bob,"])

    async def fetch_pairs() -> list[Pair]:
        raise AssertionError("Kraken is asked")

    with found_files([tmp_path]) as (files, _):
        (refused,) = [outcome async for outcome in CsvImporter(pool, fetch_pairs).import_files(files)]

    assert isinstance(refused, CsvError)
    assert refused.line == 1
    assert refused.reason.startswith("expected numbers separated by commas")


@POSTGRESQL
async def test_one_symbol_is_not_for_the_files_of_two_pairs(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    for name in ("XBTUSD_1.csv", "ETHUSD_1.csv"):
        write(tmp_path / name, [candle_line(0)])

    with pytest.raises(UsageError, match=r"expected files of one pair with --symbol .*, got 2 pairs: ETHUSD, XBTUSD"):
        await import_csv(tmp_path, symbol="BTC/USD")

    assert await stored_candles(pool) == []


class _LongFile(CsvFile, frozen=True):
    """Passing over it takes ten seconds, and in a thread that nothing can cancel."""

    is_begun: threading.Event = msgspec.field(default_factory=threading.Event)
    is_left: threading.Event = msgspec.field(default_factory=threading.Event)

    def blocks(self) -> Iterator[bytes]:
        try:
            for n in range(1000):
                yield f"{candle_line(n)}\n".encode()
                self.is_begun.set()
                time.sleep(0.01)
        finally:
            self.is_left.set()


@POSTGRESQL
async def test_an_import_that_is_cancelled_reads_no_further(tmp_path: Path, pool: asyncpg.Pool) -> None:
    # Ctrl-C and SIGTERM waited for the first pass over the whole file, which takes seconds a gigabyte.
    file = _LongFile("XBTUSDT_1.csv", 1, tmp_path)
    importing = asyncio.create_task(CsvImporter(pool, no_kraken).import_file(file))
    await asyncio.to_thread(file.is_begun.wait, 5)
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing

    assert await asyncio.to_thread(file.is_left.wait, 5)


@pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)
async def test_a_file_that_has_been_compressed_since_is_imported_again_without_change(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import
) -> None:
    # By itself TimescaleDB refuses to decompress more than 100,000 rows in a statement.
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(minute) for minute in range(110_000)])
    await import_csv(path)
    await pool.execute("SELECT compress_chunk(c) FROM show_chunks('candles') c")

    (again,) = await import_csv(path)

    assert isinstance(again, Imported)
    assert (again.rows, again.new_candles, again.replaced_candles) == (110_000, 0, 0)
    assert await pool.fetchval("SELECT count(*) FROM candles") == 110_000


async def test_a_merge_in_slices_stores_the_same_and_tells_of_each(
    tmp_path: Path, pool: asyncpg.Pool, import_csv: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candle_series, "_SLICE_CANDLES", 100)
    path = write(tmp_path / "XBTUSDT_1.csv", [candle_line(m) for m in range(4_000)])
    fewer = [candle_line(m, trades=2) for m in range(0, 4_000, 7)]
    await import_csv(write(tmp_path / "old_1.csv", fewer), symbol="BTC/USDT")
    merged: list[tuple[int, int]] = []

    def tell(file: CsvFile, phase: Phase, done: int) -> None:
        if phase == "merging":
            merged.append((done, file.size))

    with found_files([path]) as (files, _):
        (outcome,) = [each async for each in CsvImporter(pool, no_kraken).import_files(files, tell)]

    assert isinstance(outcome, Imported)
    assert (outcome.new_candles, outcome.replaced_candles) == (4_000 - len(fewer), len(fewer))
    assert {stored.candle.trade_count for stored in await stored_candles(pool)} == {3}
    assert len(merged) > 4
    assert merged[-1][0] == merged[-1][1]
    assert merged == sorted(merged)
    status = await sync_status(pool, "BTC/USDT", "candles_1m")
    assert status is not None
    assert status["total_records"] == 4_000
    assert await stale_hours(pool, "BTC/USDT") == [(START, START + 4_020 * MINUTE)]
