"""Publishing what somebody's own WebSocket client sees."""

import json
from decimal import Decimal
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetters
from kraken_history.stream.publisher import Publisher, attach
from tests.producers.streams import published_candles, published_trades

BTC = "BTC/USDT"
TRADE = {
    "symbol": BTC,
    "side": "sell",
    "price": 105433.6,
    "qty": 0.00027625,
    "ord_type": "market",
    "trade_id": 10218208,
    "timestamp": "2025-11-10T17:23:53.971744Z",
}
CANDLE = {
    "symbol": BTC,
    "open": 105433.6,
    "high": 105433.6,
    "low": 105400.0,
    "close": 105410.1,
    "trades": 12,
    "volume": 0.52347,
    "vwap": 105420.2,
    "interval_begin": "2025-11-10T17:23:00.000000000Z",
    "interval": 1,
    "timestamp": "2025-11-10T17:24:00.000000Z",
}


class SyncClient:
    """Handlers that are plain functions; what they saw, in order, is kept."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_trade(self, symbol: str, trade: dict[str, Any]) -> str:
        self.seen.append((symbol, trade))
        return "answer"

    def on_ohlc(self, symbol: str, candle: dict[str, Any], interval: int = 1) -> str:
        self.seen.append((symbol, candle, interval))
        return "answer"


class AsyncClient(SyncClient):
    """Handlers that are coroutine functions."""

    async def on_trade(self, symbol: str, trade: dict[str, Any]) -> str:  # type: ignore[override]
        return super().on_trade(symbol, trade)

    async def on_ohlc(self, symbol: str, candle: dict[str, Any], interval: int = 1) -> str:  # type: ignore[override]
        return super().on_ohlc(symbol, candle, interval)


class BareClient:
    """No handlers at all."""

    on_trade: Any
    on_ohlc: Any


class NoneClient:
    """Handlers that were declared and never set."""

    on_trade: Any = None
    on_ohlc: Any = None


async def test_a_plain_handler_is_called_and_its_answer_returned(redis: FakeAsyncRedis) -> None:
    client: Any = SyncClient()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        assert client.on_trade(BTC, TRADE) == "answer"
        assert client.on_ohlc(BTC, CANDLE, 1) == "answer"

    assert client.seen == [(BTC, TRADE), (BTC, CANDLE, 1)]
    assert [trade.id for trade in await published_trades(redis)] == [10218208]
    assert [candle.trade_count for candle in await published_candles(redis)] == [12]


async def test_a_coroutine_handler_is_awaited_and_its_answer_returned(redis: FakeAsyncRedis) -> None:
    client: Any = AsyncClient()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        assert await client.on_trade(BTC, TRADE) == "answer"
        assert await client.on_ohlc(BTC, CANDLE, 1) == "answer"

    assert client.seen == [(BTC, TRADE), (BTC, CANDLE, 1)]


async def test_a_client_may_name_its_parameters_as_it_likes(redis: FakeAsyncRedis) -> None:
    client: Any = AsyncClient()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        await client.on_trade(trade=TRADE, symbol=BTC)
        await client.on_ohlc(BTC, interval=1, candle=CANDLE)
        await client.on_ohlc(interval=5, candle=CANDLE, symbol=BTC)

    assert client.seen == [(BTC, TRADE), (BTC, CANDLE, 1), (BTC, CANDLE, 5)]
    assert [trade.id for trade in await published_trades(redis)] == [10218208]
    assert len(await published_candles(redis)) == 1
    assert not await redis.exists(wire.DEAD_LETTERS)


@pytest.mark.parametrize("kind", [BareClient, NoneClient])
async def test_an_absent_handler_may_be_awaited_or_just_called(redis: FakeAsyncRedis, kind: type[Any]) -> None:
    client = kind()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        client.on_trade(BTC, TRADE)
        await client.on_trade(BTC, {**TRADE, "trade_id": 10218209})
        client.on_ohlc(BTC, CANDLE)
        await client.on_ohlc(BTC, {**CANDLE, "interval_begin": "2025-11-10T17:24:00Z"}, 1)

    assert [trade.id for trade in await published_trades(redis)] == [10218208, 10218209]
    assert len(await published_candles(redis)) == 2


async def test_the_trade_is_taken_before_the_original_handler_runs(redis: FakeAsyncRedis) -> None:
    waiting: list[int] = []

    class Client:
        def on_trade(self, symbol: str, trade: dict[str, Any]) -> None:
            waiting.append(publisher.waiting_trades)
            raise ZeroDivisionError

    client: Any = Client()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        with pytest.raises(ZeroDivisionError):
            client.on_trade(BTC, TRADE)

    assert waiting == [1]
    assert len(await published_trades(redis)) == 1


@pytest.mark.parametrize(
    "row",
    [
        TRADE,
        json.loads(json.dumps(TRADE), parse_float=Decimal),
        {**TRADE, "price": "105433.6", "qty": "0.00027625"},
        {**TRADE, "price": Decimal("105433.6"), "qty": Decimal("0.00027625")},
        {**TRADE, "venue": "dark", "raw": object()},
        {name: value for name, value in TRADE.items() if name != "symbol"},
        {**TRADE, "symbol": "XBT/USDT"},
    ],
)
async def test_every_shape_of_a_v2_trade_is_the_same_trade(redis: FakeAsyncRedis, row: dict[str, Any]) -> None:
    client: Any = BareClient()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        client.on_trade(BTC, row)

    (trade,) = await published_trades(redis)
    assert (trade.id, trade.symbol, trade.side, trade.order_type) == (10218208, BTC, "sell", "market")
    assert (trade.price, trade.volume) == (Decimal("105433.6"), Decimal("0.00027625"))
    assert trade.timestamp.isoformat() == "2025-11-10T17:23:53.971744+00:00"


@pytest.mark.parametrize(("row", "arguments"), [(CANDLE, (5,)), ({**CANDLE, "interval": 5}, ()), (CANDLE, (60,))])
async def test_longer_candles_are_left_to_the_aggregates(
    redis: FakeAsyncRedis, row: dict[str, Any], arguments: tuple[int, ...]
) -> None:
    client: Any = BareClient()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        client.on_ohlc(BTC, row, *arguments)

    assert await redis.keys() == [b"kraken:shards"]


@pytest.mark.parametrize(
    "row",
    [
        {},
        None,
        "a string",
        [TRADE],
        {**TRADE, "price": "many"},
        {**TRADE, "price": float("nan")},
        {**TRADE, "qty": 0},
        {**TRADE, "timestamp": "2025-11-10T17:23:53"},
        {**TRADE, "side": "\ud800"},
        {1: 2},
        {name: value for name, value in TRADE.items() if name != "trade_id"},
    ],
)
@pytest.mark.parametrize("kind", [SyncClient, AsyncClient])
async def test_a_bad_dict_goes_to_the_dead_letters_and_the_clients_own_handler_runs(
    redis: FakeAsyncRedis, row: Any, kind: type[Any]
) -> None:
    client = kind()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        answer = client.on_trade(BTC, row)
        assert (await answer if kind is AsyncClient else answer) == "answer"
        answer = client.on_trade(BTC, TRADE)
        assert (await answer if kind is AsyncClient else answer) == "answer"

    letters = [letter async for letter in DeadLetters(redis, max_letters=10).list()]
    assert client.seen == [(BTC, row), (BTC, TRADE)]
    assert [trade.id for trade in await published_trades(redis)] == [10218208]
    assert len(letters) == 1
    assert letters[0].reason


async def test_a_handler_called_with_other_arguments_still_runs(redis: FakeAsyncRedis) -> None:
    calls: list[Any] = []

    class Client:
        def on_trade(self, *args: Any) -> None:
            calls.append(args)

    client: Any = Client()
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        client.on_trade(BTC)
        client.on_trade(BTC, TRADE, "more")

    assert calls == [(BTC,), (BTC, TRADE, "more")]
    assert await redis.xlen(wire.DEAD_LETTERS) == 2


async def test_a_handler_that_takes_anything_is_followed_however_it_is_called(redis: FakeAsyncRedis) -> None:
    # Keywords of a handler with *args or **kwargs were taken for one value, and the trades went to the dead letters.
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class Client:
        def on_trade(self, *args: Any, **kwargs: Any) -> None:
            seen.append((args, kwargs))

    client: Any = Client()
    row = {"side": "buy", "price": "1.5", "qty": "2", "ord_type": "limit", "trade_id": 7}
    row["timestamp"] = "2026-01-01T00:00:00Z"
    async with Publisher(redis) as publisher:
        attach(client, publisher)
        client.on_trade(symbol="BTC/USDT", data=row)
        client.on_trade("BTC/USDT", data={**row, "trade_id": 8})

    assert len(seen) == 2
    assert [trade.id for trade in await published_trades(redis)] == [7, 8]


async def test_a_dict_of_volume_zero_is_refused_and_does_not_disturb_the_client(redis: FakeAsyncRedis) -> None:
    client = SyncClient()
    async with Publisher(redis, publish_after_s=0.001) as publisher:
        attach(client, publisher)
        assert client.on_trade(BTC, TRADE | {"qty": 0}) == "answer"

    ((_, fields),) = await redis.xrange(wire.trades_stream(0))
    (refused,) = wire.decode_trades_entry(fields).refused
    assert (refused.id, refused.symbol) == (10218208, BTC)
    assert len([letter async for letter in DeadLetters(redis, max_letters=10).list()]) == 1
