"""The feed against a server that misbehaves on purpose."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import WSCloseCode, WSMsgType
from fakeredis import FakeAsyncRedis
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from kraken_history.embedded.process import free_port
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import WEBSOCKET, DeadLetters
from kraken_history.stream.publisher import Publisher
from producers.__main__ import sign_of
from producers.feed import Feed
from producers.reconnect import SLOW_RETRY_S
from tests.producers.kraken_server import HEARTBEAT, STATUS, Conversation, kraken_server
from tests.producers.streams import published_candles, published_trades
from tests.support.waiting import until

BTC, ETH, NOT_LISTED = "BTC/USDT", "ETH/USDT", "XBT/USDT"


@asynccontextmanager
async def running_feed(
    redis: FakeAsyncRedis,
    url: str,
    *,
    symbols: Sequence[str] = (BTC, ETH),
    ack_timeout_s: float = 5,
    silence_timeout_s: float = 5,
    longest_ask_again_s: float = 300,
    subscribe_again_after_s: float = 2,
) -> AsyncIterator[Feed]:
    async with Publisher(redis, publish_after_s=0.001) as publisher:
        feed = Feed(
            publisher,
            url=url,
            symbols=symbols,
            ack_timeout_s=ack_timeout_s,
            silence_timeout_s=silence_timeout_s,
            longest_ask_again_s=longest_ask_again_s,
            subscribe_again_after_s=subscribe_again_after_s,
            rng=random.Random(1),
        )
        task = asyncio.create_task(feed.run())
        try:
            yield feed
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def sample(name: str, **labels: str) -> float:
    """The present value of a metric."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def row(id_: int, symbol: str = BTC) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "side": "buy",
        "price": 105433.6,
        "qty": 0.5,
        "ord_type": "limit",
        "trade_id": id_,
        "timestamp": "2025-11-10T12:00:00.123456Z",
    }


def trade_frame(*ids: int, symbol: str = BTC, type_: str = "update") -> dict[str, Any]:
    return {"channel": "trade", "type": type_, "data": [row(id_, symbol) for id_ in ids]}


def ohlc_frame(*minutes: int, interval: int = 1) -> dict[str, Any]:
    rows = [
        {
            "symbol": BTC,
            "open": 100.0,
            "high": 101.0,
            "low": 99.0,
            "close": 100.5,
            "trades": 3,
            "volume": 1.5,
            "vwap": 100.1,
            "interval_begin": f"2025-11-10T12:{minute:02}:00.000000000Z",
            "interval": interval,
            "timestamp": f"2025-11-10T12:{minute + 1:02}:00.000000Z",
        }
        for minute in minutes
    ]
    return {"channel": "ohlc", "type": "snapshot", "data": rows}


async def test_each_channel_is_subscribed_once_with_all_symbols_and_a_snapshot(redis: FakeAsyncRedis) -> None:
    requests: list[dict[str, Any]] = []

    async def script(kraken: Conversation) -> None:
        for _ in range(2):
            requests.append(await kraken.request())
            await kraken.acknowledge(requests[-1])
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.connected)

    assert [request["method"] for request in requests] == ["subscribe", "subscribe"]
    assert [request["params"] for request in requests] == [
        {"channel": "trade", "symbol": [BTC, ETH], "snapshot": True},
        {"channel": "ohlc", "symbol": [BTC, ETH], "snapshot": True, "interval": 1},
    ]
    assert requests[0]["req_id"] != requests[1]["req_id"]


async def test_every_element_of_a_frame_is_published(redis: FakeAsyncRedis) -> None:
    """Another client read the first trade of each frame only, and lost a sixth of all trades."""

    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await kraken.send(trade_frame(*range(1, 51), type_="snapshot"))
        await kraken.send(trade_frame(51, 52, 53))
        await kraken.send(trade_frame(7, symbol=ETH))
        await kraken.send(ohlc_frame(0, 1, 5))
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.last_ids == {BTC: 53, ETH: 7})
        await until(lambda: redis.exists(wire.candles_stream(0)))
    trades, candles = await published_trades(redis), await published_candles(redis)

    assert [trade.id for trade in trades if trade.symbol == BTC] == list(range(1, 54))
    assert [trade.id for trade in trades if trade.symbol == ETH] == [7]
    assert {trade.price for trade in trades} == {Decimal("105433.6")}
    assert sorted(candle.timestamp.minute for candle in candles) == [0, 1, 5]


async def test_trades_that_come_before_the_acknowledgement_are_published(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.send(trade_frame(1))
        await kraken.accept_all()
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.connected)
    assert [trade.id for trade in await published_trades(redis)] == [1]


async def test_candles_of_other_intervals_are_left_out(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await kraken.send(ohlc_frame(0, interval=5))
        await kraken.send(ohlc_frame(3))
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url):
        await until(lambda: redis.exists(wire.candles_stream(0)))
    assert [candle.timestamp.minute for candle in await published_candles(redis)] == [3]


async def test_a_refused_symbol_is_named_and_the_others_go_on(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        for _ in range(2):
            request = await kraken.request()
            await kraken.refuse(request, NOT_LISTED)
            await kraken.acknowledge(request, [BTC])
        await kraken.send(trade_frame(1))
        await kraken.stay()

    async with (
        kraken_server(script) as server,
        running_feed(redis, server.url, symbols=[NOT_LISTED, BTC]) as feed,
    ):
        await until(lambda: feed.connected and feed.last_ids)

        assert feed.refused == {NOT_LISTED: "Currency pair not supported XBT/USDT"}
        assert server.connections == 1
    assert [trade.id for trade in await published_trades(redis)] == [1]


async def test_trades_go_on_when_only_the_candles_are_refused(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.acknowledge(await kraken.request())
        await kraken.refuse(await kraken.request(), BTC)
        await kraken.send(trade_frame(1))
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url, symbols=[BTC]) as feed:
        await until(lambda: feed.connected and feed.last_ids)

        assert BTC in feed.refused
        assert server.connections == 1


async def test_with_every_symbol_refused_it_says_so_and_tries_again(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        for _ in range(2):
            request = await kraken.request()
            if kraken.number == 1:
                await kraken.refuse(request, BTC)
            else:
                await kraken.acknowledge(request)
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url, symbols=[BTC]) as feed:
        await until(lambda: feed.trouble)
        assert feed.trouble == "Kraken refused every symbol (BTC/USDT): correct SYMBOLS"
        await until(lambda: feed.connected)
        assert (feed.trouble, feed.refused, feed.sessions) == ("", {}, 2)


async def test_what_is_not_acknowledged_in_time_is_named_and_subscribed_again(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        trade, ohlc = await kraken.request(), await kraken.request()
        await kraken.acknowledge(trade, [BTC, ETH] if kraken.number > 1 else [BTC])
        await kraken.acknowledge(ohlc)
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url, ack_timeout_s=0.1) as feed:
        await until(lambda: feed.trouble)
        assert feed.trouble == "not acknowledged within 0.1 s: trade ETH/USDT"
        await until(lambda: feed.connected)
        assert server.connections == 2


async def test_subscriptions_refused_as_one_message_too_many_are_sent_again_on_the_open_socket(
    redis: FakeAsyncRedis,
) -> None:
    """After `Exceeded msg rate`, Kraken was reported as out of reach, although the socket was open."""
    again: list[dict[str, Any]] = []

    async def script(kraken: Conversation) -> None:
        await kraken.acknowledge(await kraken.request())
        request = await kraken.request()
        await kraken.acknowledge(request, [BTC])
        await kraken.send({"Error": "Exceeded msg rate"})
        stay = asyncio.create_task(keep_alive(kraken))
        again.append(await kraken.request())
        await kraken.acknowledge(again[0])
        await stay

    async def keep_alive(kraken: Conversation) -> None:
        while not kraken.socket.closed:
            await kraken.send(HEARTBEAT)
            await asyncio.sleep(0.02)

    async with (
        kraken_server(script) as server,
        running_feed(redis, server.url, subscribe_again_after_s=0.2) as feed,
    ):
        await until(lambda: "Exceeded msg rate" in feed.waiting_for)
        assert (feed.is_open, feed.connected, feed.trouble) == (True, False, "")
        await until(lambda: feed.connected)
        assert (feed.waiting_for, server.connections) == ("", 1)

    assert [(each["params"]["channel"], each["params"]["symbol"]) for each in again] == [("ohlc", [ETH])]


async def test_an_open_socket_is_not_reported_as_out_of_reach(redis: FakeAsyncRedis) -> None:
    """On a slow machine, the answers to the subscriptions took longer than the patience of `up`."""

    async def script(kraken: Conversation) -> None:
        await kraken.request()
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url) as feed, Publisher(redis) as publisher:
        assert sign_of(feed, publisher).trouble == {"start": "connecting to Kraken"}
        await until(lambda: feed.is_open)
        assert sign_of(feed, publisher).trouble == {
            "start": "the socket to Kraken is open, and subscriptions are not answered yet"
        }


async def test_a_silent_socket_is_given_up(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await (kraken.keep_silent() if kraken.number == 1 else kraken.stay())

    async with kraken_server(script) as server, running_feed(redis, server.url, silence_timeout_s=0.1) as feed:
        await until(lambda: feed.trouble)
        assert feed.trouble == "the socket was silent for 0.1 s"
        assert not feed.connected
        await until(lambda: feed.connected)
        assert server.connections == 2


@pytest.mark.parametrize(
    "frame",
    [
        "no JSON",
        "[]",
        "{}",
        '{"channel":"trade","type":"update","data":{}}',
        '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USDT","side":"up"}]}',
        '{"channel":"\\ud800"}',
    ],
)
async def test_a_malformed_frame_is_kept_and_the_feed_goes_on(redis: FakeAsyncRedis, frame: str) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await kraken.send(frame)
        await kraken.send(trade_frame(1))
        await kraken.stay()

    counted_before = sample("kraken_malformed_messages_total", where="frame")
    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.last_ids)
        assert server.connections == 1
    assert sample("kraken_malformed_messages_total", where="frame") == counted_before + 1
    (letter,) = [letter async for letter in DeadLetters(redis, max_letters=10).list()]

    assert (letter.origin, letter.fields) == (WEBSOCKET, {b"frame": frame.encode()})
    assert letter.reason
    assert [trade.id for trade in await published_trades(redis)] == [1]


async def test_good_rows_of_a_frame_are_published_and_bad_ones_kept(
    redis: FakeAsyncRedis,
) -> None:
    """Of ten trades with one of volume 0, all ten once became one dead letter."""
    rows = [{**row(id_), "qty": 0} if id_ == 25 else row(id_) for id_ in range(21, 31)]
    nameless = {**row(31), "trade_id": "none"}

    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await kraken.send({**trade_frame(1), "data": [*rows, nameless]})
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.last_ids)

    entries = [wire.decode_trades_entry(fields) for _, fields in await redis.xrange(wire.trades_stream(0))]
    letters = [letter async for letter in DeadLetters(redis, max_letters=10).list()]
    assert [trade.id for entry in entries for trade in entry.trades] == [*range(21, 25), *range(26, 31)]
    assert [trade.id for entry in entries for trade in entry.refused] == [25]
    assert ["positive price and volume" in letter.reason for letter in letters] == [False, True]
    assert [json.loads(letter.fields[b"frame"])["data"][0]["trade_id"] for letter in letters] == ["none", 25]


async def test_channels_fields_and_answers_that_nobody_knows_are_tolerated(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.send({**trade_frame(1), "sequence": 3, "data": [{**row(1), "venue": "dark"}]})
        await kraken.send({"channel": "ticker", "data": [{"symbol": BTC}]})
        await kraken.send({"channel": "instrument", "data": {"assets": [], "pairs": []}})
        await kraken.send({"method": "pong", "req_id": 0})
        await kraken.send({"method": "unsubscribe", "success": True})
        await kraken.send({"Error": "Exceeded msg rate"})
        await kraken.accept_all()
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.connected)
        assert (server.connections, feed.refused) == (1, {})
    assert [trade.id for trade in await published_trades(redis)] == [1]
    assert not await redis.exists(wire.DEAD_LETTERS)


async def test_maintenance_is_noted_and_the_socket_kept(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.send(STATUS % "online")
        await kraken.accept_all()
        await kraken.send(STATUS % "maintenance")
        await kraken.stay()

    counted_before = sample("kraken_status_messages_total", system="maintenance")
    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.system == "maintenance")
        await until(lambda: feed.connected)
        assert server.connections == 1
    assert sample("kraken_status_messages_total", system="maintenance") == counted_before + 1


async def test_after_a_disconnect_in_maintenance_there_is_no_retry_at_once(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.send(STATUS % "maintenance")

    with capture_logs() as logs:
        async with kraken_server(script) as server, running_feed(redis, server.url):
            await until(lambda: [log for log in logs if log["event"] == "disconnected"])
            assert server.connections == 1

    (disconnected,) = [log for log in logs if log["event"] == "disconnected"]
    assert disconnected["retry_in_s"] >= SLOW_RETRY_S


@pytest.mark.parametrize("ending", ["binary", "close", "cut"])
async def test_however_a_session_ends_the_next_one_begins(redis: FakeAsyncRedis, ending: str) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await kraken.send(trade_frame(kraken.number))
        if kraken.number > 1:
            await kraken.stay()
        elif ending == "binary":
            await kraken.socket.send_frame(b"\x00\xff", WSMsgType.BINARY)
            await kraken.keep_silent()
        elif ending == "close":
            await kraken.socket.close(code=WSCloseCode.SERVICE_RESTART)
        else:
            kraken.cut()

    async with kraken_server(script) as server, running_feed(redis, server.url) as feed:
        await until(lambda: feed.last_ids == {BTC: 2})
        await until(lambda: feed.connected)
        assert (server.connections, feed.sessions) == (2, 2)


async def test_a_server_that_is_not_there_yet_is_found_when_it_comes(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await kraken.stay()

    port = free_port()
    async with running_feed(redis, f"ws://127.0.0.1:{port}/v2") as feed:
        await until(lambda: feed.trouble)
        async with kraken_server(script, port=port):
            await until(lambda: feed.connected)

            assert feed.sessions == 1


async def test_the_connection_is_kept_alive_by_pings(redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.feed.PING_EVERY_S", 0.05)
    pings: list[dict[str, Any]] = []

    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        while len(pings) < 2:
            await kraken.send(trade_frame(1))
            with suppress(TimeoutError):
                pings.append(await kraken.socket.receive_json(timeout=0.01))
        await kraken.stay()

    async with kraken_server(script) as server, running_feed(redis, server.url):
        await until(lambda: len(pings) == 2)

    assert [ping["method"] for ping in pings] == ["ping", "ping"]


async def test_a_refused_symbol_is_asked_for_again(redis: FakeAsyncRedis) -> None:
    # A refusal was for the whole session: a symbol refused in a bad moment stayed dead until the next connection.
    async def script(kraken: Conversation) -> None:
        for _ in range(2):
            request = await kraken.request()
            await kraken.refuse(request, NOT_LISTED)
            await kraken.acknowledge(request, [BTC])
        await kraken.send(trade_frame(1))  # any frame: the feed looks at its watch when it has read one
        for _ in range(2):
            request = await kraken.request()
            assert request["params"]["symbol"] == [NOT_LISTED]
            await kraken.acknowledge(request)
        await kraken.stay()

    async with (
        kraken_server(script) as server,
        running_feed(redis, server.url, symbols=[NOT_LISTED, BTC], longest_ask_again_s=0.0) as feed,
    ):
        await until(lambda: feed.connected and not feed.refused and feed.last_ids)

        assert server.connections == 1
