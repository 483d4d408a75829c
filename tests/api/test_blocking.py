"""Reading without ``async``."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from kraken_history.backtests import BacktestRun, UnknownRun
from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.errors import InvalidNumber, ProviderClosed, ServiceUnavailable, UnknownSymbol, UsageError
from kraken_history.provider import HistoricalDataProvider
from tests.api.conftest import END, MINUTES, store_trades
from tests.support.examples import NOON, make_trade
from tests.support.servers import Background

# What the server can do makes no difference to threads.
pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

HOUR = timedelta(hours=1)


@pytest.fixture
def history(filled_url: str) -> Iterator[BlockingHistoricalDataProvider]:
    with BlockingHistoricalDataProvider(filled_url, pool_min_size=1) as history:
        yield history


@contextmanager
def locked(database_url: str, background: Background) -> Iterator[Callable[[int], None]]:
    """Holds up all reads; what it gives waits until so many of them are held up."""

    async def lock() -> "asyncpg.Connection[asyncpg.Record]":
        connection = await asyncpg.connect(database_url)
        await connection.execute("BEGIN; LOCK TABLE data_sync_status, candles IN ACCESS EXCLUSIVE MODE")
        return connection

    connection = background.run(lock())

    def wait_for(count: int) -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while background.run(connection.fetchval(query)) != count:
            background.run(connection.fetchval("SELECT pg_stat_clear_snapshot()"))

    try:
        yield wait_for
    finally:
        background.run(connection.close())


def clients(database_url: str, background: Background) -> int:
    """How many connections there are to the database."""

    async def count() -> int:
        connection = await asyncpg.connect(database_url)
        try:
            query = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database() AND usename <> ''"
            return int(await connection.fetchval(query))
        finally:
            await connection.close()

    return background.run(count())


async def test_it_reads_what_the_provider_reads(filled_url: str, history: BlockingHistoricalDataProvider) -> None:
    """And it does so while an event loop runs, as in a notebook."""
    async with HistoricalDataProvider(filled_url) as provider:
        assert history.get_candles("BTC/USDT", 5, NOON, END, gaps="ignore") == await provider.get_candles(
            "BTC/USDT", 5, NOON, END, gaps="ignore"
        )
        assert history.get_latest_candles("BTC/USDT", 1, 3) == await provider.get_latest_candles("BTC/USDT", 1, 3)
        assert history.get_trades("BTC/USDT", NOON, END, 9, gaps="ignore") == await provider.get_trades(
            "BTC/USDT", NOON, END, 9, gaps="ignore"
        )
        padded = await provider.get_candles_arrow("BTC/USDT", 5, NOON, END + HOUR, gaps="pad")
        assert history.get_candles_arrow("BTC/USDT", 5, NOON, END + HOUR, gaps="pad") == padded
        assert history.get_candles_frame("BTC/USDT", 5, NOON, END + HOUR, gaps="pad")["is_made_up"].sum() == 12
        candles = history.get_candles("BTC/USDT", 5, NOON, END + HOUR, gaps="pad")
        assert sum(candle.is_made_up for candle in candles) == 12
        assert history.get_candles("BTC/USDT", 5, NOON, END + HOUR, gaps="fill") == candles
        assert history.get_candles_arrow("BTC/USDT", 5, NOON, END + HOUR, gaps="fill") == padded
        assert history.get_symbols() == ["BTC/USDT", "ETH/USDT"]
        assert history.get_data_range("BTC/USDT")["total_candles"] == MINUTES
        assert history.get_sync_status("BTC/USDT") == await provider.get_sync_status("BTC/USDT")
        assert history.get_multi_timeframe_candles("BTC/USDT", END, [1, 60], lookback=3, gaps="ignore") == (
            await provider.get_multi_timeframe_candles("BTC/USDT", END, [1, 60], lookback=3, gaps="ignore")
        )
        replayed = [
            each async for each in provider.replay(["BTC/USDT", "ETH/USDT"], [1, 60], NOON, END, 0, gaps="ignore")
        ]
        assert list(history.replay(["BTC/USDT", "ETH/USDT"], [1, 60], NOON, END, 0, gaps="ignore")) == replayed


def test_it_replays_everything_in_order(history: BlockingHistoricalDataProvider) -> None:
    candles = history.replay_candles("BTC/USDT", 1, NOON, END, speed=0, gaps="ignore")
    trades = history.replay_trades("BTC/USDT", NOON, END, speed=0, gaps="ignore")

    assert [candle.timestamp for candle in candles] == [NOON + timedelta(minutes=n) for n in range(MINUTES)]
    assert [trade.id for trade in trades] == list(range(1, MINUTES + 1))


def test_errors_are_those_of_the_provider(history: BlockingHistoricalDataProvider) -> None:
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT, ETH/USDT"):
        history.get_candles("DOGE/USDT", 1, NOON, END, gaps="ignore")
    with pytest.raises(UnknownSymbol, match="expected one of BTC/USDT, ETH/USDT"):
        next(history.replay_candles("DOGE/USDT", 1, NOON, END, gaps="ignore"))
    with pytest.raises(InvalidNumber, match="speed: expected"):
        history.replay_candles("BTC/USDT", 1, NOON, END, speed=-1, gaps="ignore")
    with pytest.raises(ServiceUnavailable, match="no database answers"):
        BlockingHistoricalDataProvider("postgresql://127.0.0.1:1/x").connect()


def test_it_may_be_left_half_way(history: BlockingHistoricalDataProvider) -> None:
    for candle in history.replay_candles("BTC/USDT", 1, NOON, END, speed=0, gaps="ignore"):
        if candle.timestamp == NOON + HOUR:
            break
    with closing(history.replay_trades("BTC/USDT", NOON, END, speed=1, gaps="ignore")) as trades:
        first = next(trades)

    assert (candle.timestamp, first.id) == (NOON + HOUR, 1)
    assert list(trades) == []


def test_closed_it_says_so_and_may_be_opened_again(filled_url: str) -> None:
    history = BlockingHistoricalDataProvider(filled_url)
    with pytest.raises(ProviderClosed):
        history.get_symbols()
    history.close()

    for _ in range(2):
        history.connect()
        history.connect()
        candles = history.replay_candles("BTC/USDT", 1, NOON, END, speed=1, gaps="ignore")
        assert next(candles).timestamp == NOON
        history.close()
        history.close()
        with pytest.raises(ProviderClosed):
            list(candles)
        with pytest.raises(ProviderClosed):
            history.get_symbols()
        with pytest.raises(ProviderClosed):
            next(history.replay_candles("BTC/USDT", 1, NOON, END, gaps="ignore"))


def test_the_health_check_connects_if_need_be(filled_url: str) -> None:
    history = BlockingHistoricalDataProvider(filled_url)

    assert history.health_check().is_healthy
    assert history.get_symbols() == ["BTC/USDT", "ETH/USDT"]
    history.close()


def test_several_threads_read_at_once(history: BlockingHistoricalDataProvider) -> None:
    def read(number: int) -> tuple[int, int]:
        start = NOON + number * HOUR
        replayed = history.replay_candles("BTC/USDT", 1, start, start + HOUR, speed=0, gaps="ignore")
        return len(history.get_candles("BTC/USDT", 1, start, start + HOUR, gaps="ignore")), len(list(replayed))

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(read, range(48))) == [(60, 60)] * 48


def test_closing_ends_what_other_threads_wait_for(
    filled_url: str, history: BlockingHistoricalDataProvider, background: Background
) -> None:
    def wait_for_the_next() -> None:
        candles = history.replay_candles("BTC/USDT", 1, NOON, END, speed=0.01, gaps="ignore")
        next(candles)
        has_begun.set()
        next(candles)

    has_begun = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        following = threads.submit(wait_for_the_next)
        assert has_begun.wait(30)
        with locked(filled_url, background) as wait_for:
            reading = threads.submit(history.get_symbols)
            wait_for(1)

            history.close()

            for ended in (following, reading):
                with pytest.raises(ProviderClosed):
                    ended.result(30)


def interrupt(wait_for: Callable[[int], None]) -> None:
    wait_for(1)
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def interrupted_in(function: str) -> Iterator[None]:
    """``Ctrl-C`` for this thread as soon as it is in a function of this name; or after ten seconds, wherever it is."""
    this, is_over = threading.get_ident(), threading.Event()

    def interrupt_it() -> None:
        deadline = time.monotonic() + 10
        while sys._current_frames()[this].f_code.co_name != function and time.monotonic() < deadline:
            if is_over.wait(0.001):
                return
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt_it)
    interrupter.start()
    try:
        yield
    finally:
        is_over.set()
        interrupter.join()


def test_ctrl_c_cancels_a_call_and_nothing_else(
    filled_url: str, history: BlockingHistoricalDataProvider, background: Background
) -> None:
    with locked(filled_url, background) as wait_for, ThreadPoolExecutor(1) as threads:
        interrupter = threads.submit(interrupt, wait_for)
        with pytest.raises(KeyboardInterrupt):
            history.get_symbols()
        interrupter.result()
        wait_for(0)  # the statement is cancelled in the database too

    assert history.get_symbols() == ["BTC/USDT", "ETH/USDT"]


def test_ctrl_c_ends_an_iteration_and_nothing_else(history: BlockingHistoricalDataProvider) -> None:
    candles = history.replay_candles("BTC/USDT", 1, NOON, END, speed=0.01, gaps="ignore")
    next(candles)

    with interrupted_in("wait_for"), pytest.raises(KeyboardInterrupt):
        next(candles)  # is a hundred minutes away

    assert list(candles) == []
    assert history.get_symbols() == ["BTC/USDT", "ETH/USDT"]


def test_one_that_nobody_refers_to_any_more_is_closed(filled_url: str, background: Background) -> None:
    history = BlockingHistoricalDataProvider(filled_url)
    history.connect()
    assert clients(filled_url, background) > 0

    del history
    gc.collect()

    while clients(filled_url, background):
        pass
    assert "kraken-history" not in [thread.name for thread in threading.enumerate()]


def run_program(database_url: str, code: str) -> str:
    """Run a program that has ``history``, open, NOON and END; return what it printed."""
    head = """
import os, sys, threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from kraken_history import *
NOON = datetime(2025, 11, 10, 12, tzinfo=timezone.utc)
END = NOON + timedelta(days=1)
history = BlockingHistoricalDataProvider(sys.argv[1])
history.connect()
"""
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    ran = subprocess.run(
        [*command, "-c", head + code, database_url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.parametrize(
    "code",
    [
        "print(history.get_symbols())",
        "candles = history.replay_candles('BTC/USDT', 1, NOON, END, 0, gaps='ignore')\nnext(candles)"
        "\nprint(history.get_symbols())",
        "candles = history.replay_candles('BTC/USDT', 1, NOON, END, 0.01, gaps='ignore')\nnext(candles)"
        "\nprint(history.get_symbols())"
        "\ndef wait():\n    with suppress(ProviderClosed):\n        next(candles)"
        "\nthreading.Thread(target=wait, daemon=True).start()",
    ],
    ids=["idle", "half-read", "waiting"],
)
def test_a_program_that_forgets_to_close_it_ends(code: str, filled_url: str) -> None:
    assert "BTC/USDT" in run_program(filled_url, code)


def test_a_forked_process_opens_its_own(filled_url: str) -> None:
    code = """
candles = history.replay_candles("BTC/USDT", 1, NOON, END, 0.01, gaps="ignore")
next(candles)
child = os.fork()
if not child:
    try:
        history.get_symbols()
    except ProviderClosed:
        history.connect()
        print("child", history.get_symbols(), flush=True)
    candles.close()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print("parent", history.get_symbols())
"""

    assert run_program(filled_url, code).splitlines() == [
        "child ['BTC/USDT', 'ETH/USDT']", "parent ['BTC/USDT', 'ETH/USDT']"
    ]  # fmt: skip


@pytest.mark.parametrize("speed", [0, 0.01], ids=["too far ahead", "waiting"])
def test_a_forked_process_is_silent_about_what_its_parent_reads(speed: float, filled_url: str) -> None:
    """It threw the tasks away, each with a complaint, and ended their work on sockets that the parent uses."""
    code = f"""
import gc
candles = history.replay_candles("BTC/USDT", 1, NOON, END, {speed}, gaps="ignore")
followed = history.follow_candles(["BTC/USDT"], 1, start=NOON)
next(candles), next(followed)
child = os.fork()
if not child:
    history.connect()
    del candles, followed
    gc.collect()
    print("child", history.get_symbols(), flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print("parent", len([next(followed) for _ in range(1_500)]))
"""

    assert run_program(filled_url, code).splitlines() == ["child ['BTC/USDT', 'ETH/USDT']", "parent 1500"]


def test_runs_of_backtests_are_saved_and_found(history: BlockingHistoricalDataProvider) -> None:
    run = BacktestRun(
        strategy_name="two averages",
        symbols=("BTC/USDT",),
        start_time=NOON,
        end_time=END,
        parameters={"fast": 10},
        metrics={"trades": 2},
    )

    id_ = history.save_run(run)

    assert [listed.id for listed in history.list_runs()] == [id_]
    assert history.list_runs("another", limit=1) == []
    assert history.load_run(id_).parameters == {"fast": 10}
    with pytest.raises(UnknownRun, match=r"list_runs\(\) returns"):
        history.load_run(UUID(int=1))
    with pytest.raises(UsageError, match="saved backtest run, got first"):
        history.load_run("first")  # type: ignore[arg-type]


def test_following_holds_a_connection_until_it_is_left(
    filled_url: str, history: BlockingHistoricalDataProvider, background: Background
) -> None:
    held = clients(filled_url, background)
    with closing(history.follow_candles(["BTC/USDT"], 1, start=END - HOUR)) as candles:
        for minute in range(59):
            assert next(candles).timestamp == END - HOUR + timedelta(minutes=minute)
        background.run(store_trades(filled_url, [make_trade(MINUTES + n, END + n * HOUR) for n in (1, 2)]))
        assert next(candles).timestamp == END - timedelta(minutes=1)
        assert clients(filled_url, background) > held

    while clients(filled_url, background) > held:
        pass


@pytest.mark.parametrize(
    ("call", "place"), [("history.get_symbols()", "run_coroutine_threadsafe"), ("history.connect()", "new_event_loop")]
)
def test_a_fork_in_the_middle_of_another_threads_call_hangs_nothing(call: str, place: str, filled_url: str) -> None:
    """A lock that the thread holds stays locked in the child for ever: the thread is held up while it has one."""
    code = f"""
import time
candles = history.replay_candles("BTC/USDT", 1, NOON, END, 0.01, gaps="ignore")
next(candles)
if {place!r} == "new_event_loop":
    history.close()
is_there, may_go_on = threading.Event(), threading.Event()
def hold_up(frame, event, _):
    if frame.f_code.co_name == {place!r}:
        is_there.set()
        may_go_on.wait()
def work():
    sys.settrace(hold_up)
    {call}
thread = threading.Thread(target=work)
thread.start()
assert is_there.wait(30)
child = os.fork()
if not child:
    for read in (history.get_symbols, candles.__next__):
        with suppress(ProviderClosed):
            read()
            print("the child has read", flush=True)
    candles.close()
    history.connect()
    print("child", history.get_symbols(), flush=True)
    sys.exit()
may_go_on.set()
thread.join()
deadline = time.monotonic() + 20
while not (ended := os.waitpid(child, os.WNOHANG))[0]:
    if time.monotonic() > deadline:
        os.kill(child, 9)
        os.waitpid(child, 0)
        sys.exit("the child hangs")
    time.sleep(0.01)
assert ended[1] == 0
print("parent", history.get_symbols())
"""

    assert run_program(filled_url, code).splitlines() == [
        "child ['BTC/USDT', 'ETH/USDT']", "parent ['BTC/USDT', 'ETH/USDT']"
    ]  # fmt: skip
