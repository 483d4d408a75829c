"""Candles as they are stored, each once and in order."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kraken_history.errors import UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.database import Database
from kraken_history.reading.following import follow_candles
from kraken_history.reading.settling import Timing
from kraken_history.reading.strategy_reads import read_warmup
from kraken_history.records import MINUTE, HistoricalCandle, HistoricalTrade, floor_minute
from kraken_history.storing.store import Store
from tests.support.database import stored_candles
from tests.support.examples import NOON, make_candle, make_trade
from tests.support.followed import NEVER_POLLS, QUICK, Following, Watched, opened, take
from tests.support.waiting import until

SECOND = timedelta(seconds=1)
BTC, ETH = "BTC/USDT", "ETH/USDT"
LISTENERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'LISTEN%' AND backend_type = 'client backend'
"""


def minutes_of_trades(count: int, *, symbol: str = BTC, first_id: int = 1) -> list[HistoricalTrade]:
    """Three trades a minute, the first at noon."""
    return [make_trade(first_id + n, NOON + n * 20 * SECOND, symbol=symbol) for n in range(3 * count)]


def trade_a_minute(start: datetime, count: int) -> list[HistoricalTrade]:
    """A second after each minute's begin, so that with :data:`QUICK` the minute before it is over for any symbol."""
    return [make_trade(n, start + n * MINUTE + SECOND) for n in range(count)]


async def test_each_closed_candle_comes_once_in_order(database: Database, store: Store) -> None:
    batches = [minutes_of_trades(6), minutes_of_trades(6, symbol=ETH)]
    followed = follow_candles(database, [ETH, BTC], 1, NOON, QUICK)
    async with Following(followed) as follower:
        for at in range(0, 18, 2):
            await store.write([trade for batch in batches for trade in batch[at : at + 2]])
        await until(lambda: len(follower.seen) == 10)

        assert [each for each in follower.opened if each[0] == ETH] == [(ETH, NOON + n * MINUTE) for n in range(5)]
        assert [each for each in follower.opened if each[0] == BTC] == [(BTC, NOON + n * MINUTE) for n in range(5)]
        assert {candle.trade_count for candle in follower.seen} == {3}


async def test_catching_up_is_by_close_time_then_by_the_order_of_the_symbols(
    database: Database, store: Store, pool: asyncpg.Pool
) -> None:
    """Over a stretch without candles that is longer than many pages, and then one where each page is full."""
    late = NOON + timedelta(days=90)
    near = [make_candle(NOON + n * MINUTE) for n in range(3_000)]
    far = [make_candle(late + n * MINUTE, symbol=symbol) for n in range(4_000) for symbol in (BTC, ETH)]
    await store.write(candles=[*near, *far], candle_source="csv")
    start = NOON - timedelta(days=20_000)
    candles = await take(follow_candles(database, [ETH, BTC], 1, start, Timing(grace_s=0)), len(near) + len(far))

    expected = sorted(await stored_candles(pool), key=lambda candle: (candle.timestamp, candle.symbol == BTC))
    assert candles == expected


async def test_longer_candles_close_at_their_end(database: Database, store: Store) -> None:
    trades = minutes_of_trades(11)
    followed = follow_candles(database, [BTC], 5, NOON, QUICK)
    async with Following(followed) as follower:
        await store.write(trades[:30])
        await until(lambda: len(follower.seen) == 1)
        await store.write(trades[30:])
        await until(lambda: len(follower.seen) == 2)

        assert [(c.timestamp, c.interval_minutes, c.trade_count) for c in follower.seen] == [
            (NOON, 5, 15),
            (NOON + 5 * MINUTE, 5, 15),
        ]


async def test_while_nothing_more_comes_the_last_candle_stays_open(database: Watched, store: Store) -> None:
    followed = follow_candles(database, [BTC], 1, NOON, Timing(grace_s=0, patience_s=0, poll_s=0.02))
    async with Following(followed) as follower:
        await store.write([make_trade(1, NOON), make_trade(2, NOON + MINUTE), make_trade(3, NOON + 70 * SECOND)])
        await until(lambda: follower.seen)
        await database.be_looked_at()
        assert follower.opened == [(BTC, NOON)]
        await store.write([make_trade(4, NOON + 2 * MINUTE)])
        await until(lambda: len(follower.seen) == 2)


async def test_a_hole_that_is_healed_late_delays_its_candle_and_those_after(database: Database, store: Store) -> None:
    start = floor_minute(datetime.now(UTC)) - 3 * MINUTE
    trades = [make_trade(n, start + (n - 1) * 20 * SECOND) for n in range(1, 11)]
    others = [make_trade(n, start + (n - 1) * 30 * SECOND, symbol=ETH) for n in range(1, 8)]
    followed = follow_candles(database, [BTC, ETH], 1, start, QUICK)
    async with Following(followed) as follower:
        await store.write([*(trade for trade in trades if trade.id != 5), *others])
        await until(lambda: len(follower.seen) == 4)
        held_back = follower.opened
        await store.write([trades[4]])
        await until(lambda: len(follower.seen) == 6)

        assert sorted(held_back) == [(BTC, start), *((ETH, start + n * MINUTE) for n in range(3))]
        assert follower.opened[4:] == [(BTC, start + MINUTE), (BTC, start + 2 * MINUTE)]
        assert [candle.trade_count for candle in follower.seen if candle.symbol == BTC] == [3, 3, 3]


async def test_a_hole_that_stays_delays_no_longer_than_patience(database: Database, store: Store) -> None:
    start = floor_minute(datetime.now(UTC)) - 2 * MINUTE
    await store.write([make_trade(1, start), make_trade(3, start + MINUTE), make_trade(4, start + 2 * MINUTE)])
    followed = follow_candles(database, [BTC], 1, start, Timing(patience_s=0, poll_s=0.05))

    assert opened(await take(followed, 2)) == [(BTC, start), (BTC, start + MINUTE)]


async def test_by_default_the_first_candle_that_is_not_closed_yet(database: Database, store: Store) -> None:
    trades = minutes_of_trades(4)
    await store.write([*trades[:7], *minutes_of_trades(1, symbol=ETH), make_trade(9, NOON + MINUTE, symbol=ETH)])
    async with Following(follow_candles(database, [BTC, ETH], 1, {ETH: NOON}, QUICK)) as follower:
        await until(lambda: follower.seen)  # so that it has begun
        await store.write(trades[7:])
        await until(lambda: len(follower.seen) == 3)

    assert follower.opened == [(ETH, NOON), (ETH, NOON + MINUTE), (BTC, NOON + 2 * MINUTE)]


async def test_each_symbol_may_start_elsewhere(database: Database, store: Store) -> None:
    await store.write([*minutes_of_trades(4), *minutes_of_trades(4, symbol=ETH)])
    start = {BTC: NOON + 2 * MINUTE, ETH: NOON + MINUTE + SECOND}
    candles = await take(follow_candles(database, [BTC, ETH], 1, start, QUICK), 2)

    assert opened(candles) == [(BTC, NOON + 2 * MINUTE), (ETH, NOON + 2 * MINUTE)]


async def test_a_symbol_that_is_not_stored_yet_is_waited_for(database: Database, store: Store) -> None:
    followed = follow_candles(database, [ETH, BTC], 1, {BTC: NOON, ETH: NOON}, QUICK)
    async with Following(followed) as follower:
        await store.write(minutes_of_trades(2))
        await until(lambda: follower.opened == [(BTC, NOON)])
        await store.write(minutes_of_trades(2, symbol=ETH))
        await until(lambda: follower.opened == [(BTC, NOON), (ETH, NOON)])


async def test_a_download_in_parts_is_followed_to_its_end(database: Database, store: Store) -> None:
    """Time closes the minutes after the first part, and the second part fills them none the less."""
    followed = follow_candles(database, [BTC], 1, NOON, Timing(grace_s=0, poll_s=0.05))
    async with Following(followed) as follower:
        for at in (0, 3, 6):
            await store.write(candles=[make_candle(NOON + n * MINUTE) for n in range(at, at + 3)], candle_source="csv")
            await until(lambda last=at + 3: len(follower.seen) == last)  # type: ignore[misc]

        assert follower.opened == [(BTC, NOON + n * MINUTE) for n in range(9)]


async def test_a_notification_is_acted_upon_at_once(database: Watched, store: Store) -> None:
    async with Following(follow_candles(database, [BTC], 1, NOON, NEVER_POLLS)) as follower:
        await until(lambda: database.looks == 2)  # at the beginning, and upon listening
        await store.write(minutes_of_trades(2))
        await until(lambda: follower.seen)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_a_notification_that_is_not_ours_leads_to_a_look_and_no_noise(
    database: Watched, store: Store, pool: asyncpg.Pool
) -> None:
    noise: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    async with Following(follow_candles(database, [BTC], 1, NOON, NEVER_POLLS)) as follower:
        await until(lambda: database.looks == 2)
        for looks, payload in enumerate(("x", "", '{"a": 1}', '[["BTC/USDT", 1]]'), start=3):
            await pool.execute(f"NOTIFY kraken_history_candles, '{payload}'")
            await until(lambda wanted=looks: database.looks == wanted)  # type: ignore[misc]
        await store.write(minutes_of_trades(2))
        await until(lambda: follower.seen)

    assert noise == []


async def test_what_was_stored_before_it_listens_is_not_missed(migrated_database_url: str, store: Store) -> None:
    """Of that no notification came."""
    database = SlowToListen(migrated_database_url, 1, 2)
    await database.open()
    async with Following(follow_candles(database, [BTC], 1, NOON, NEVER_POLLS)) as follower:
        await until(lambda: database.looks == 1)
        await store.write(minutes_of_trades(2))
        database.may_listen.set()
        await until(lambda: follower.seen)
    await database.close()


async def test_a_hole_that_is_healed_is_acted_upon_at_once(database: Watched, store: Store) -> None:
    start = floor_minute(datetime.now(UTC)) - MINUTE
    trades = [make_trade(n, start + n * 20 * SECOND) for n in range(5)]
    async with Following(follow_candles(database, [BTC], 1, start, NEVER_POLLS)) as follower:
        await until(lambda: database.looks == 2)
        await store.write([trade for trade in trades if trade.id != 2])
        await until(lambda: database.looks == 3)
        assert follower.seen == []
        await store.write([trades[2]])
        await until(lambda: follower.seen)


async def test_a_quiet_symbol_whose_trades_were_stuck_gets_its_candles(
    database: Watched, store: Store, pool: asyncpg.Pool
) -> None:
    """A consumer died with an entry of ETH, another went on with BTC: past the grace, ETH counted as quiet."""
    start = floor_minute(datetime.now(UTC)) - 5 * MINUTE
    stuck = [make_trade(n, start + n * MINUTE, symbol=ETH) for n in (1, 2, 3)]
    await store.write([make_trade(0, start, symbol=ETH), *trade_a_minute(start, 5)])
    async with Following(follow_candles(database, [ETH, BTC], 1, start, QUICK)) as follower:
        await until(lambda: len(follower.of(BTC)) == 4)
        await database.be_looked_at()
        before = len(follower.of(ETH))
        await store.write([stuck[1]])
        await database.be_looked_at()
        missing_one = len(follower.of(ETH))  # ETH's 1 is known to be missing now
        await store.write([stuck[0]])
        await until(lambda: len(follower.of(ETH)) == 3)
        await store.write([stuck[2]])
        await until(lambda: len(follower.of(ETH)) == 4)

    assert (before, missing_one) == (1, 1)
    assert [candle.timestamp for candle in follower.of(ETH)] == [start + n * MINUTE for n in range(4)]


async def test_what_comes_before_a_candle_that_was_given_out_is_not(database: Watched, store: Store) -> None:
    """That would break the order."""
    start = floor_minute(datetime.now(UTC)) - 5 * MINUTE
    await store.write(trade_a_minute(start, 5))
    async with Following(follow_candles(database, [ETH, BTC], 1, start, QUICK)) as follower:
        await store.write([make_trade(8, start + 2 * MINUTE, symbol=ETH)])
        await until(lambda: len(follower.seen) == 5)
        await store.write([make_trade(7, start + MINUTE, symbol=ETH), make_trade(9, start + 3 * MINUTE, symbol=ETH)])
        await until(lambda: len(follower.seen) == 6)
        await database.be_looked_at()

    assert [candle.timestamp for candle in follower.of(ETH)] == [start + 2 * MINUTE, start + 3 * MINUTE]


async def test_a_candle_that_comes_later_than_patience_is_not_looked_for(database: Watched, store: Store) -> None:
    """So the span to be read again is short, however long a symbol is quiet."""
    start = floor_minute(datetime.now(UTC)) - 9 * MINUTE
    timing = Timing(grace_s=0.5, patience_s=180, poll_s=0.05)
    await store.write([make_trade(0, start, symbol=ETH), *trade_a_minute(start, 9)])
    async with Following(follow_candles(database, [ETH, BTC], 1, start, timing)) as follower:
        await until(lambda: len(follower.seen) == 9)
        await store.write([make_trade(1, start + MINUTE, symbol=ETH), make_trade(2, start + 7 * MINUTE, symbol=ETH)])
        await until(lambda: len(follower.of(ETH)) == 2)

    assert [candle.timestamp for candle in follower.of(ETH)] == [start, start + 7 * MINUTE]


class SlowToListen(Watched):
    """A database that is listened to when a test says so."""

    def __init__(self, url: str, pool_min_size: int, pool_max_size: int) -> None:
        super().__init__(url, pool_min_size, pool_max_size)
        self.may_listen = asyncio.Event()

    async def connect(self) -> asyncpg.Connection:
        await self.may_listen.wait()
        return await super().connect()


class WithoutListening(Database):
    """A database that refuses to be listened to, as a replica does."""

    async def connect(self) -> asyncpg.Connection:
        raise asyncpg.ReadOnlySQLTransactionError("cannot execute LISTEN during recovery")


async def test_where_listening_is_refused_polling_is_left(migrated_database_url: str, store: Store) -> None:
    database = WithoutListening(migrated_database_url, 1, 2)
    await database.open()
    async with Following(follow_candles(database, [BTC], 1, NOON, QUICK)) as follower:
        for trade in minutes_of_trades(4):
            await store.write([trade])
        await until(lambda: len(follower.seen) == 3)
    await database.close()

    assert follower.opened == [(BTC, NOON + n * MINUTE) for n in range(3)]


async def listeners(database: Database, count: int) -> bool:
    [row] = await database.fetch(LISTENERS)
    return bool(row[0] == count)


async def test_a_connection_that_is_lost_is_opened_again(database: Database, store: Store, pool: asyncpg.Pool) -> None:
    async with Following(follow_candles(database, [BTC], 1, NOON, NEVER_POLLS)) as follower:
        await until(lambda: listeners(database, 1))
        await pool.execute(LISTENERS.replace("count(*)", "pg_terminate_backend(pid)"))
        await until(lambda: listeners(database, 0))
        await until(lambda: listeners(database, 1))
        await store.write(minutes_of_trades(2))
        await until(lambda: follower.seen)


async def test_breaking_out_and_cancelling_close_the_connection(database: Database, store: Store) -> None:
    await store.write(minutes_of_trades(3))
    broken_out = follow_candles(database, [BTC], 1, NOON, QUICK)
    await take(broken_out, 1)
    async with Following(follow_candles(database, [BTC], 1, NOON, QUICK)):
        await until(lambda: listeners(database, 2))
    await until(lambda: listeners(database, 1))
    await broken_out.aclose()

    await until(lambda: listeners(database, 0))


async def test_warming_up_and_following_join_without_a_seam(database: Database, store: Store) -> None:
    """However the writer and the starting readers take turns."""
    trades = [*minutes_of_trades(40), *minutes_of_trades(40, symbol=ETH)]
    trades.sort(key=lambda trade: trade.timestamp)
    joined: list[tuple[int, list[HistoricalCandle]]] = []

    async def join(interval: int) -> None:
        warm = await read_warmup(database, BTC, interval, 1_000, None, "ignore", QUICK)
        start = warm[-1].timestamp + interval * MINUTE if warm else NOON
        live = await take(follow_candles(database, [BTC], interval, start, QUICK), 39 // interval - len(warm))
        joined.append((interval, [*warm, *live]))

    await store.write(trades[:20])
    async with asyncio.TaskGroup() as group:
        for at in range(20, len(trades), 5):
            if at % 20 == 0:
                group.create_task(join(1 if at % 40 else 3))
            await store.write(trades[at : at + 5])

    assert len(joined) == 11
    for interval, candles in joined:
        assert [candle.timestamp for candle in candles] == [NOON + n * interval * MINUTE for n in range(39 // interval)]
        assert {candle.trade_count for candle in candles} == {3 * interval}


async def test_a_warm_up_ends_where_candles_are_not_closed(database: Database, store: Store) -> None:
    await store.write(minutes_of_trades(10))

    assert opened(await read_warmup(database, BTC, 1, 2, None, "ignore")) == [
        (BTC, NOON + 7 * MINUTE),
        (BTC, NOON + 8 * MINUTE),
    ]
    assert opened(await read_warmup(database, BTC, 1, 2, NOON + 5 * MINUTE + SECOND, "ignore")) == [
        (BTC, NOON + 3 * MINUTE),
        (BTC, NOON + 4 * MINUTE),
    ]
    assert opened(await read_warmup(database, BTC, 5, 9, None, "ignore")) == [(BTC, NOON)]
    # With an end, time alone counts: what was stored after it must change nothing.
    assert opened(await read_warmup(database, BTC, 5, 9, NOON + 99 * MINUTE, "ignore")) == [
        (BTC, NOON),
        (BTC, NOON + 5 * MINUTE),
    ]


async def test_arguments_that_cannot_be_are_refused_at_once(database: Database) -> None:
    naive = NOON.replace(tzinfo=None)
    provider = HistoricalDataProvider(database.url)
    with pytest.raises(UsageError, match=r"symbols: expected a list of at least one item, got \[\]"):
        provider.follow_candles([], 1)
    with pytest.raises(UsageError, match="symbols: expected a list of at least one item, got None"):
        provider.follow_candles(None, 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="whole number of minutes from 1"):
        provider.follow_candles([BTC], 0)
    with pytest.raises(UsageError, match="expected a timezone-aware datetime"):
        provider.follow_candles([BTC], 1, start=naive)
    with pytest.raises(UsageError, match="expected a timezone-aware datetime"):
        provider.follow_candles([BTC], 1, start={BTC: naive})
    with pytest.raises(UsageError, match="expected one of BTC/USDT, got 'ETH/USDT'"):
        provider.follow_candles([BTC], 1, start={ETH: NOON})
    with pytest.raises(UsageError, match="expected BASE/QUOTE, such as BTC/USDT, got 'btc'"):
        provider.follow_candles(["btc"], 1)
    with pytest.raises(UsageError, match="poll_s: expected a number of seconds"):
        provider.follow_candles([BTC], 1, poll_s=0)
    with pytest.raises(UsageError, match="holds nothing of 'BTC/USDT'"):
        await read_warmup(database, BTC, 1, 10, None, "ignore")
    with pytest.raises(UsageError, match="periods: expected a whole number"):
        await read_warmup(database, BTC, 1, 0, None, "ignore")
