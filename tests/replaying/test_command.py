"""``kraken-history replay``: its options, and our own services on a replayed history."""

import asyncio
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from kraken_history.completeness.holes import find_holes
from kraken_history.database.connections import create_pool
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE, floor_minute, group_by_symbol
from kraken_history.storing.store import Store
from tests.replaying.conftest import END, START, SYMBOLS, seeded_trades
from tests.support.command import Run
from tests.support.database import stored_trades
from tests.support.examples import digits
from tests.support.servers import DatabaseServer
from tests.support.services import CONSUMER, PRODUCER, WORKER, Service, simulator_urls
from tests.support.waiting import until

REPLAY = ("-m", "kraken_history", "replay", "--as-kraken", "--port", "0")
SPAN = ("--from", START.isoformat(), "--to", END.isoformat())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--days", "1"], "expected --as-kraken, the only kind of replay that this command has"),
        (["--as-kraken"], "expected --from or --days, for example: kraken-history replay --as-kraken --days 1"),
        (["--as-kraken", "--days", "1", "--speed", "0"], "--speed: expected a positive number, or max, got '0'"),
        (["--as-kraken", "--days", "1", "--speed", "nan"], "--speed: expected a positive number, or max, got 'nan'"),
        (["--as-kraken", "--days", "1", "--speed", "fast"], "--speed: expected a positive number, or max, got 'fast'"),
        (["--as-kraken", "--days", "1", "--gaps", "pad"], "--gaps"),
        (["--as-kraken", "--from", "2026-02-01", "--to", "2026-01-01"], "the range is reversed or empty"),
        (["--as-kraken", "--from", "2999-01-01"], "the range is reversed or empty: --from 2999-01-01T00:00:00Z"),
    ],
)
def test_an_option_that_is_not_valid_is_one_line_and_starts_no_server(
    arguments: list[str], message: str, command: Run, tmp_path: Path
) -> None:
    outcome = command("replay", *arguments)

    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


async def test_missing_trades_and_unknown_symbols_end_the_command_with_one_line(filled: str, tmp_path: Path) -> None:
    earlier = ("--from", (START - timedelta(days=1)).isoformat(), "--to", END.isoformat())
    for arguments, code, words in (([*earlier, "BTC/USDT"], 1, "backfill"), ([*SPAN, "DOGE/USD"], 2, "DOGE/USD")):
        with Service([*REPLAY, *arguments], tmp_path / f"{code}.log", {"DATABASE_URL": filled}) as replay:
            assert replay.wait() == code, replay.output
            assert words in replay.output
            assert replay.output.count("\n") == 1, replay.output


async def test_the_command_ends_with_the_range(filled: str, tmp_path: Path) -> None:
    arguments = [*REPLAY, *SPAN, "--speed", "max", "--gaps", "ignore"]
    with Service(arguments, tmp_path / "log", {"DATABASE_URL": filled}) as replay:
        await until(lambda: simulator_urls(replay.output))
        urls = simulator_urls(replay.output)
        assert urls is not None
        assert urls[0].startswith("ws://127.0.0.1:")
        async with aiohttp.ClientSession() as http, http.post(f"{urls[1]}/control/start"):
            assert await asyncio.to_thread(replay.wait) == 0

        assert replay.output.endswith("replay: 4,000 trade(s) of 2 symbol(s) sent\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_can_be_interrupted(number: signal.Signals, filled: str, tmp_path: Path) -> None:
    with Service([*REPLAY, *SPAN, "--gaps", "ignore"], tmp_path / "log", {"DATABASE_URL": filled}) as replay:
        await until(lambda: simulator_urls(replay.output))
        urls = simulator_urls(replay.output)
        assert urls is not None
        replay.send(number)
        await asyncio.to_thread(replay.wait)

        assert "Traceback" not in replay.output
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientError):
                await http.get(f"{urls[1]}/0/public/Time")


async def test_a_command_that_is_killed_leaves_no_server_behind(filled: str, tmp_path: Path) -> None:
    with Service([*REPLAY, *SPAN, "--gaps", "ignore"], tmp_path / "log", {"DATABASE_URL": filled}) as replay:
        await until(lambda: simulator_urls(replay.output))
        urls = simulator_urls(replay.output)
        assert urls is not None
        replay.kill()

        async def is_gone() -> bool:
            try:
                async with aiohttp.ClientSession() as http, http.get(f"{urls[1]}/0/public/Time"):
                    return False
            except aiohttp.ClientError:
                return True

        await until(is_gone)


@pytest.mark.slow
async def test_our_own_services_store_the_replayed_history_digit_for_digit(
    database_server: DatabaseServer, migrated_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Producer, consumer and worker, whose Kraken is a replay, fill a second database with what the first one has."""
    trades = seeded_trades(6_000, floor_minute(datetime.now(UTC)) - timedelta(minutes=5))
    by_symbol = group_by_symbol(trades)
    start = max(floor_minute(each[0].timestamp) + MINUTE for each in by_symbol.values())
    end = min(floor_minute(each[-1].timestamp) for each in by_symbol.values())
    expected = [trade for trade in trades if start <= trade.timestamp < end]
    target = database_server.create_migrated_database()
    async with AsyncExitStack() as stack:
        stack.callback(database_server.drop_database, target)
        source_pool = await stack.enter_async_context(await create_pool(migrated_database_url, min_size=1, max_size=1))
        await Store(source_pool).write(trades)
        span = ["--from", start.isoformat(), "--to", end.isoformat(), "--speed", "max", "--stay"]
        log = tmp_path / "replay.log"
        replay = stack.enter_context(Service([*REPLAY, *span], log, {"DATABASE_URL": migrated_database_url}))
        await until(lambda: simulator_urls(replay.output))
        urls = simulator_urls(replay.output)
        assert urls is not None
        settings = {
            "DATABASE_URL": target,
            "REDIS_URL": redis_url,
            "KRAKEN_WS_URL": urls[0],
            "KRAKEN_REST_URL": urls[1],
            "SYMBOLS": ",".join(SYMBOLS),
            "HISTORY_DAYS": "1",
            "REST_CALL_SPACING_S": "0.2",
            "REST_TOTAL_SPACING_S": "0.2",
            "HEAL_DELAY_S": "0.1",
        }
        for name, argv in {"worker": WORKER, "consumer": CONSUMER, "producer": PRODUCER}.items():
            stack.enter_context(Service(argv, tmp_path / f"{name}.log", settings))
        pool = await stack.enter_async_context(await create_pool(target, min_size=1, max_size=1))

        async def is_complete() -> bool:
            stored = await pool.fetchval("SELECT count(*) FROM trades")
            return stored == len(expected) and await find_holes(pool) == {}

        await until(is_complete, timeout_s=90)

        assert [digits(trade) for trade in await stored_trades(pool)] == [digits(trade) for trade in expected]
        history = await stack.enter_async_context(HistoricalDataProvider(migrated_database_url, 1, 1))
        replayed = await stack.enter_async_context(HistoricalDataProvider(target, 1, 1))
        for symbol in SYMBOLS:
            for interval in (1, 3):
                candles = await history.get_candles(symbol, interval, start, end, gaps="raise")
                again = await replayed.get_candles(symbol, interval, start, end, gaps="ignore")
                assert candles
                assert list(map(digits, again)) == list(map(digits, candles)), (symbol, interval)
