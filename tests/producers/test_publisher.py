"""Publishing into streams: micro-batches, bounds, and a Redis that goes away."""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as NoAnswer

from kraken_history.embedded import find_binaries
from kraken_history.embedded.process import free_port, reap
from kraken_history.embedded.valkey import Valkey
from kraken_history.errors import MalformedMessage
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetters
from kraken_history.stream.publisher import Publisher
from tests.producers.streams import candle_entries, published_trades, trade_entries
from tests.support.proxy import Proxy
from tests.support.records import candle, trade, trades
from tests.support.waiting import until

BTC, ETH = "BTC/USDT", "ETH/USDT"
TRADES, CANDLES = wire.trades_stream(0), wire.candles_stream(0)


class TestMicroBatches:
    async def test_what_comes_within_the_delay_makes_one_entry_a_symbol(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, publish_after_s=0.05) as publisher:
            for id_ in range(1, 6):
                publisher.add_trades([trade(id_, BTC), trade(id_, ETH)])
            await until(lambda: publisher.published_trades == 10)

        assert await trade_entries(redis) == [trades(range(1, 6), BTC), trades(range(1, 6), ETH)]

    async def test_a_record_does_not_wait_longer_than_the_delay(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, publish_after_s=0.001) as publisher:
            for id_ in (1, 2, 3):
                publisher.add_trades([trade(id_)])
                await until(lambda: not publisher.waiting_trades)

        assert await trade_entries(redis) == [[trade(1)], [trade(2)], [trade(3)]]

    async def test_an_entry_holds_no_more_trades_than_it_may(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, entry_max_trades=200) as publisher:
            publisher.add_trades(trades(range(450)))

        entries = await trade_entries(redis)
        assert [len(entry) for entry in entries] == [200, 200, 50]
        assert [trade for entry in entries for trade in entry] == trades(range(450))

    async def test_of_a_running_candle_only_the_latest_is_published(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, publish_after_s=0.05) as publisher:
            for count in (1, 2, 3):
                publisher.add_candles([candle(trades(range(count)))])
            publisher.add_candles([candle(trades(range(9, 12)))])

        assert await candle_entries(redis) == [[candle(trades(range(3))), candle(trades(range(9, 12)))]]

    async def test_a_candle_that_changes_while_it_is_published_is_published_again(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, publish_after_s=0.001) as publisher:
            for count in range(1, 9):
                publisher.add_candles([candle(trades(range(count)))])
                await asyncio.sleep(0)

        assert (await candle_entries(redis))[-1] == [candle(trades(range(8)))]

    async def test_a_running_candle_is_held_until_its_minute_is_over(self, redis: FakeAsyncRedis) -> None:
        # Published at each trade, it took the place of the trades' own candle each time, and the minute was built
        # anew from all its trades: at 2,000 trades a second that took most of the database's time.
        running = candle([trade(1)])
        now = [running.timestamp + timedelta(seconds=30)]
        async with Publisher(redis, publish_after_s=0.001, now=lambda: now[0]) as publisher:
            publisher.add_candles([running])
            publisher.add_trades([trade(1)])
            await until(lambda: publisher.published_trades == 1)
            assert await candle_entries(redis) == []

            now[0] = running.timestamp + timedelta(seconds=62)
            publisher.add_trades([trade(2)])
            await until(lambda: publisher.published_trades == 2)

            assert await candle_entries(redis) == [[running]]

    async def test_leaving_publishes_a_running_candle_too(self, redis: FakeAsyncRedis) -> None:
        running = candle([trade(1)])
        async with Publisher(redis, now=lambda: running.timestamp) as publisher:
            publisher.add_candles([running])

        assert await candle_entries(redis) == [[running]]

    async def test_symbols_are_spread_over_the_shards(self, redis: FakeAsyncRedis) -> None:
        symbols = [f"A{n}/USDT" for n in range(60)]
        async with Publisher(redis, shards=3) as publisher:
            publisher.add_trades([trade(1, symbol) for symbol in symbols])

        found = {shard: [entry[0].symbol for entry in await trade_entries(redis, shard)] for shard in range(3)}
        assert found == {shard: [s for s in symbols if wire.shard_of(s, 3) == shard] for shard in range(3)}
        assert all(found.values())

    async def test_leaving_publishes_what_still_waits(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, publish_after_s=3600) as publisher:
            publisher.add_trades(trades(range(25_000)))
            publisher.add_candles([candle([trade(1)])])
            publisher.add_malformed(MalformedMessage("no JSON", b"?"))

        assert await published_trades(redis) == trades(range(25_000))
        assert await candle_entries(redis) == [[candle([trade(1)])]]
        assert await redis.xlen(wire.DEAD_LETTERS) == 1

    async def test_leaving_with_nothing_to_publish_makes_no_stream(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis):
            pass

        assert await redis.keys() == [b"kraken:shards"]


class DeafRedis(FakeAsyncRedis):
    """Loses the cancellation that comes while it sends, once, as asyncio.wait_for of Python 3.11 does."""

    def __init__(self) -> None:
        super().__init__()
        self.is_sending = False

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        pipeline: Any = super().pipeline(*args, **kwargs)
        if not self.is_sending:
            self.is_sending = True
            send = pipeline.execute

            async def lose() -> Any:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
                return await send()

            pipeline.execute = lose
        return pipeline


async def test_leaving_ends_though_the_cancellation_is_lost() -> None:
    async with DeafRedis() as redis:
        async with asyncio.timeout(10), Publisher(redis, publish_after_s=0.001) as publisher:
            publisher.add_trades([trade(1)])
            await until(lambda: redis.is_sending)

        assert await published_trades(redis) == [trade(1)]


class SlowRedis(FakeAsyncRedis):
    """Has what it was sent at once, but answers a little later."""

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        pipeline: Any = super().pipeline(*args, **kwargs)
        send = pipeline.execute

        async def answer_late() -> Any:
            answer = await send()
            await asyncio.sleep(0.2)
            return answer

        pipeline.execute = answer_late
        return pipeline


async def test_what_is_on_its_way_on_leaving_is_published_once() -> None:
    async with SlowRedis() as redis:
        async with Publisher(redis, publish_after_s=0.001) as publisher:
            publisher.add_trades([trade(1)])
            await until(lambda: redis.exists(wire.trades_stream(0)))

        assert await published_trades(redis) == [trade(1)]


class SilentRedis(FakeAsyncRedis):
    """Gives no answer until the socket's own patience is over, which is longer than a service has for its end."""

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        pipeline: Any = super().pipeline(*args, **kwargs)

        async def wait() -> None:
            await asyncio.sleep(15)
            raise NoAnswer

        pipeline.execute = wait
        return pipeline


async def test_what_a_silent_redis_did_not_take_is_counted_as_let_go_in_time() -> None:
    async with SilentRedis() as redis, asyncio.timeout(10), Publisher(redis, publish_after_s=3600) as publisher:
        publisher.add_trades([trade(1), trade(2)])

    assert publisher.let_go_trades == 2


class TestBounds:
    @pytest.mark.parametrize("stream", [TRADES, CANDLES])
    async def test_nothing_is_published_while_a_stream_is_full_and_everything_after_it_drains(
        self, redis: FakeAsyncRedis, stream: str
    ) -> None:
        for _ in range(3):
            await redis.xadd(stream, {"any": "thing"})
        async with Publisher(redis, stream_max_entries=3, publish_after_s=0.001) as publisher:
            publisher.add_trades(trades(range(500)))
            publisher.add_candles([candle([trade(1)])])
            await until(lambda: publisher.is_held_back)
            publisher.add_trades(trades(range(500, 1000)))

            assert (await redis.xlen(TRADES) + await redis.xlen(CANDLES), publisher.published_trades) == (3, 0)
            await redis.xtrim(stream, maxlen=0)
            await until(lambda: publisher.published_trades == 1000)
            assert not publisher.is_held_back
            assert publisher.let_go_trades == 0

        assert await published_trades(redis) == trades(range(1000))
        assert await candle_entries(redis) == [[candle([trade(1)])]]

    async def test_past_its_bound_the_buffer_lets_new_trades_go_and_counts_them(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, buffer_max_trades=100, publish_after_s=3600) as publisher:
            publisher.add_trades(trades(range(90)))
            publisher.add_trades(trades(range(90, 110)))
            publisher.add_trades(trades(range(110, 115)))

            assert (publisher.waiting_trades, publisher.let_go_trades) == (100, 15)
        assert await published_trades(redis) == trades(range(100))

    async def test_candles_and_malformed_frames_have_bounds_too(self, redis: FakeAsyncRedis) -> None:
        async with Publisher(redis, buffer_max_trades=10, publish_after_s=3600) as publisher:
            first = candle([trade(1)])
            minutes = [
                msgspec.structs.replace(first, timestamp=first.timestamp + timedelta(minutes=n)) for n in range(20)
            ]
            publisher.add_candles(minutes)
            publisher.add_candles([msgspec.structs.replace(minutes[0], volume=Decimal(5))])
            for _ in range(2000):
                publisher.add_malformed(MalformedMessage("no JSON", b"?"))

        (entry,) = await candle_entries(redis)
        assert len(entry) == 10
        assert entry[0].volume == 5
        assert await redis.xlen(wire.DEAD_LETTERS) == 1000

    async def test_what_cannot_be_published_on_leaving_is_counted_as_let_go(self, redis: FakeAsyncRedis) -> None:
        await redis.xadd(TRADES, {"any": "thing"})
        async with Publisher(redis, stream_max_entries=1, publish_after_s=3600) as publisher:
            publisher.add_trades(trades(range(7)))

        assert (publisher.published_trades, publisher.let_go_trades) == (0, 7)


class BrokenRedis(FakeAsyncRedis):
    """Fails once, in a way that no outage does."""

    was_asked = False

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        if self.was_asked:
            return super().pipeline(*args, **kwargs)
        self.was_asked = True
        raise ZeroDivisionError


class TestBugs:
    """A bug in publishing once ended it in silence, while the producer went on reading."""

    async def test_whoever_waits_for_a_failure_gets_it(self) -> None:
        async def produce() -> None:
            async with BrokenRedis() as redis, Publisher(redis, publish_after_s=0.001) as publisher:
                publisher.add_trades([trade(1)])
                async with asyncio.timeout(5):
                    await publisher.failure()

        with pytest.raises(ZeroDivisionError):
            await produce()

    async def test_nobody_waiting_gets_it_on_leaving(self) -> None:
        async def produce() -> None:
            async with BrokenRedis() as redis, Publisher(redis, publish_after_s=0.001) as publisher:
                publisher.add_trades([trade(1)])
                await until(lambda: redis.was_asked)

        with pytest.raises(ZeroDivisionError):
            await produce()


class TestOutages:
    @pytest.fixture
    async def proxy(self, redis_url: str) -> AsyncIterator[Proxy]:
        async with Proxy(redis_url) as proxy:
            yield proxy

    async def test_memory_stays_bounded_while_redis_is_away_and_publishing_goes_on_after(
        self, proxy: Proxy, redis_url: str
    ) -> None:
        async with (
            Redis.from_url(redis_url) as direct,
            Redis.from_url(proxy.url) as redis,
            Publisher(redis, buffer_max_trades=300, publish_after_s=0.001) as publisher,
        ):
            publisher.add_trades(trades(range(10)))
            await until(lambda: publisher.published_trades == 10)
            await proxy.cut()
            for start in range(10, 1010, 100):
                publisher.add_trades(trades(range(start, start + 100)))
                assert publisher.waiting_trades <= 300
            await until(lambda: publisher.is_held_back)

            assert (publisher.waiting_trades, publisher.let_go_trades) == (300, 700)
            await proxy.restore()
            await until(lambda: publisher.waiting_trades == 0 and not publisher.is_held_back)
            publisher.add_trades(trades(range(2000, 2010)))
            await until(lambda: publisher.published_trades == 320)

            expected = [*range(310), *range(2000, 2010)]
            assert [trade.id for trade in await published_trades(direct)] == expected

    async def test_leaving_while_redis_is_away_ends_and_counts(self, proxy: Proxy) -> None:
        async with Redis.from_url(proxy.url) as redis:
            async with Publisher(redis, publish_after_s=3600) as publisher:
                publisher.add_trades(trades(range(10)))
                await proxy.cut()

            assert publisher.let_go_trades == 10

    async def test_a_malformed_frame_waits_for_redis_too(self, proxy: Proxy, redis_url: str) -> None:
        async with (
            Redis.from_url(redis_url) as direct,
            Redis.from_url(proxy.url) as redis,
            Publisher(redis, publish_after_s=0.001) as publisher,
        ):
            await proxy.cut()
            publisher.add_malformed(MalformedMessage("no JSON", b"?"))
            await until(lambda: publisher.is_held_back)
            await proxy.restore()
            await until(lambda: not publisher.is_held_back)

            letters = [letter async for letter in DeadLetters(direct, max_letters=10).list()]
            assert [(letter.reason, letter.fields) for letter in letters] == [("no JSON", {b"frame": b"?"})]

    async def test_a_server_that_is_killed_and_comes_back_gets_the_rest(self, tmp_path: Path) -> None:
        password = secrets.token_hex(8)
        program = find_binaries().valkey_server
        port = free_port()
        valkey = Valkey(
            program, tmp_path / "valkey", port=port, password=password, log=tmp_path / "valkey.log", durable=False
        )
        valkey.configure()
        valkey.start(30)
        try:
            async with (
                Redis.from_url(f"redis://:{password}@127.0.0.1:{port}/0") as redis,
                Publisher(redis, publish_after_s=0.001) as publisher,
            ):
                publisher.add_trades(trades(range(100)))
                await until(lambda: publisher.published_trades == 100)
                kill(valkey)
                publisher.add_trades(trades(range(100, 200)))
                await until(lambda: publisher.is_held_back)
                valkey.start(30)
                await until(lambda: publisher.published_trades == 200)

                assert await published_trades(redis) == trades(range(200))
        finally:
            valkey.stop(30)


def kill(server: Valkey) -> None:
    """SIGKILL, and wait until it is gone."""
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while server.pid() is not None:
        reap()
