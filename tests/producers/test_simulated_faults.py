"""The producer against the simulator's faults, one at a time: what arrives is published, and the feed goes on."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from kraken_history.stream.dead_letters import WEBSOCKET, DeadLetters
from kraken_history.stream.publisher import Publisher
from producers.feed import Feed
from simulator import Simulator
from tests.producers.streams import published_trades
from tests.support.waiting import until

BTC, ETH = "BTC/USDT", "ETH/USDT"


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    async with Simulator(symbols=[BTC, ETH], emitting=False, heartbeat_s=0.1) as kraken:
        yield kraken


@asynccontextmanager
async def running_feed(redis: FakeAsyncRedis, kraken: Simulator, **options: Any) -> AsyncIterator[Feed]:
    async with Publisher(redis, publish_after_s=0.001) as publisher:
        feed = Feed(publisher, url=kraken.ws_url, symbols=[BTC, ETH], rng=random.Random(1), **options)
        task = asyncio.create_task(feed.run())
        try:
            yield feed
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def true_ids(kraken: Simulator) -> set[tuple[str, int]]:
    return {(symbol, trade.id) for symbol, tape in kraken.exchange.tapes.items() for trade in tape.trades(0, len(tape))}


async def published_ids(redis: FakeAsyncRedis) -> set[tuple[str, int]]:
    return {(trade.symbol, trade.id) for trade in await published_trades(redis)}


async def is_complete(redis: FakeAsyncRedis, kraken: Simulator) -> bool:
    return await published_ids(redis) == true_ids(kraken)


@pytest.mark.parametrize(
    "fault", ["repeat:times=3", "reorder", "delay:s=0.1", "split", "merge", "reorder:by=5;split;repeat"]
)
async def test_frames_that_come_otherwise_but_whole_are_published_to_the_last_trade(
    redis: FakeAsyncRedis, kraken: Simulator, fault: str
) -> None:
    async with running_feed(redis, kraken) as feed:
        await until(lambda: feed.connected)
        kraken.inject([{"fault": part.split(":")[0], "p": 0.5} for part in fault.split(";")])
        for _ in range(20):
            kraken.emit(6)
        await until(lambda: is_complete(redis, kraken))
        assert kraken.director.log.count > 0
        assert feed.sessions <= 1


@pytest.mark.parametrize(("fault", "is_noticed"), [("drop", False), ("truncate", True), ("corrupt", True)])
async def test_a_frame_that_is_lost_or_damaged_costs_its_own_trades_only(
    redis: FakeAsyncRedis, kraken: Simulator, fault: str, is_noticed: bool
) -> None:
    async with running_feed(redis, kraken) as feed:
        await until(lambda: feed.connected)
        kraken.emit(20)
        kraken.inject({"fault": fault, "symbol": BTC})
        kraken.emit(20)
        kraken.emit(20)
        (line,) = kraken.director.log.after(0)
        first, last = int(str(line.hit["first_id"])), int(str(line.hit["last_id"]))
        lost = {(BTC, id_) for id_ in range(first, last + 1)}
        await until(lambda: is_rest(redis, kraken, lost))
        await until(lambda: has_letters(redis, int(is_noticed)))


async def has_letters(redis: FakeAsyncRedis, count: int) -> bool:
    letters = [letter async for letter in DeadLetters(redis, max_letters=10).list()]
    return [letter.origin for letter in letters] == count * [WEBSOCKET]


async def is_rest(redis: FakeAsyncRedis, kraken: Simulator, lost: set[tuple[str, int]]) -> bool:
    return await published_ids(redis) == true_ids(kraken) - lost


@pytest.mark.parametrize(
    "fault",
    ["close:code=1001", "close:code=1012", "cut", "reset", "corrupt:form=bytes", "silence:s=60,heartbeats=no"],
)
async def test_after_the_socket_ended_the_snapshot_brings_what_was_missed(
    redis: FakeAsyncRedis, kraken: Simulator, fault: str
) -> None:
    async with running_feed(redis, kraken, silence_timeout_s=0.5) as feed:
        await until(lambda: feed.connected)
        kraken.inject(fault)
        kraken.emit(30)
        await until(lambda: kraken.hub.accepted >= 2)
        kraken.emit(10)
        await until(lambda: is_complete(redis, kraken))


async def test_handshakes_that_fail_are_tried_again(redis: FakeAsyncRedis, kraken: Simulator) -> None:
    kraken.inject({"fault": "handshake", "count": 4})
    async with running_feed(redis, kraken) as feed:
        await until(lambda: feed.connected)
        kraken.emit(10)
        await until(lambda: is_complete(redis, kraken))

    assert kraken.director.log.count == 4


async def test_a_refused_symbol_is_told_and_asked_for_again(redis: FakeAsyncRedis, kraken: Simulator) -> None:
    kraken.inject(f"refuse:symbol={ETH},on=trade")
    async with running_feed(redis, kraken, longest_ask_again_s=0.1) as feed:
        await until(lambda: ETH in feed.refused)
        await until(lambda: feed.connected and not feed.refused)
        kraken.emit(60)
        await until(lambda: is_complete(redis, kraken))


async def test_a_symbol_that_is_listed_again_is_subscribed_again(redis: FakeAsyncRedis, kraken: Simulator) -> None:
    async with running_feed(redis, kraken, longest_ask_again_s=0.1) as feed:
        await until(lambda: feed.connected)
        kraken.inject(f"delist:symbol={ETH};cut")
        await until(lambda: ETH in feed.refused)
        kraken.end_faults()
        await until(lambda: feed.connected and not feed.refused)
        kraken.emit(60)
        await until(lambda: is_complete(redis, kraken))


async def test_acknowledgements_that_are_late_are_waited_for(redis: FakeAsyncRedis, kraken: Simulator) -> None:
    kraken.inject({"fault": "late_ack", "p": 1, "s": 0.3})
    async with running_feed(redis, kraken, ack_timeout_s=10) as feed:
        await until(lambda: len(kraken.hub.clients) == 1)
        kraken.emit(20)
        await until(lambda: is_complete(redis, kraken))
        await until(lambda: feed.connected)

    assert kraken.hub.accepted == 1


async def test_acknowledgements_that_never_come_end_the_session(redis: FakeAsyncRedis, kraken: Simulator) -> None:
    kraken.inject({"fault": "late_ack", "count": 4, "s": 3600})
    async with running_feed(redis, kraken, ack_timeout_s=0.2) as feed:
        await until(lambda: feed.connected)

    assert kraken.hub.accepted >= 2


async def test_maintenance_is_told_and_ends(redis: FakeAsyncRedis, kraken: Simulator) -> None:
    async with running_feed(redis, kraken) as feed:
        await until(lambda: feed.connected)
        kraken.inject("maintenance")
        await until(lambda: feed.system == "maintenance")
        kraken.end_faults()
        await until(lambda: feed.system == "online")
        kraken.emit(10)
        await until(lambda: is_complete(redis, kraken))
        assert feed.connected


async def test_an_hour_between_the_clocks_loses_nothing(redis: FakeAsyncRedis, kraken: Simulator) -> None:
    async with running_feed(redis, kraken) as feed:
        await until(lambda: feed.connected)
        for by_s in (3600, -7200, 3600):
            kraken.inject(f"clock_jump:by_s={by_s}")
            kraken.emit(20)
        await until(lambda: is_complete(redis, kraken))
        assert feed.connected
