"""What clients of Kraken see of a replayed history."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import aiohttp
import asyncpg
import pytest

from kraken_history.errors import CoverageError, UnknownSymbol
from kraken_history.kraken.websocket import Trades, decode_frame
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from replaying.server import ReplayServer
from tests.replaying.conftest import BTC, END, START, SYMBOLS, XRP, Serve
from tests.support.examples import make_trade
from tests.support.waiting import until

MINUTE = timedelta(minutes=1)


class Client:
    """A WebSocket client of Kraken that is not ours, and one of REST."""

    def __init__(self, server: ReplayServer, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse):
        self._http, self.socket, self._url = http, socket, server.port.rest_url

    async def subscribe(self, channel: str, *symbols: str, **more: object) -> None:
        params = {"channel": channel, "symbol": symbols, **more}
        await self.socket.send_json({"method": "subscribe", "params": params, "req_id": 1})

    async def hear_all(self) -> tuple[list[str], int | None]:
        """All frames but heartbeats up to the close, and its code."""
        texts: list[str] = []
        while True:
            message = await self.socket.receive(timeout=30)
            if message.type is not aiohttp.WSMsgType.TEXT:
                return texts, self.socket.close_code
            texts += [] if "heartbeat" in message.data else [message.data]

    async def ask(self, method: str, **params: str) -> Any:
        async with self._http.get(f"{self._url}/0/public/{method}", params=params) as response:
            assert response.status == 200
            return json.loads(await response.text(), parse_float=Decimal)

    async def control(self, word: str) -> Any:
        async with self._http.post(f"{self._url}/control/{word}") as response:
            return await response.json()


@asynccontextmanager
async def client_of(server: ReplayServer) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http, http.ws_connect(server.port.ws_url) as socket:
        yield Client(server, http, socket)


async def played(server: ReplayServer) -> None:
    """Play to the end, and close the sockets."""
    await server.play()
    await server.hub.close()


def trades_in(texts: Sequence[str]) -> list[HistoricalTrade]:
    frames = [decode_frame(text) for text in texts]
    return [trade for frame in frames if isinstance(frame, Trades) for trade in frame.trades]


def of_symbol(trades: Sequence[HistoricalTrade], symbol: str) -> list[HistoricalTrade]:
    return [trade for trade in trades if trade.symbol == symbol]


def rows_in(texts: Sequence[str], channel: str, kind: str = "update") -> list[dict[str, Any]]:
    frames = [json.loads(text, parse_float=Decimal) for text in texts]
    wanted = [frame for frame in frames if frame.get("channel") == channel and frame.get("type") == kind]
    return [row for frame in wanted for row in frame["data"]]


async def test_every_trade_comes_once_as_it_is_stored_and_then_the_socket_closes(
    serve: Serve, trades: list[HistoricalTrade]
) -> None:
    server = await serve()
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        await client.subscribe("trade", *SYMBOLS)
        group.create_task(played(server))
        texts, code = await client.hear_all()

    sent = trades_in(texts)
    assert code == 1001
    assert [trade.timestamp for trade in sent] == sorted(trade.timestamp for trade in sent)
    for symbol in SYMBOLS:
        assert of_symbol(sent, symbol) == of_symbol(trades, symbol)
    assert server.exchange.emitted == len(trades)


async def test_the_frames_do_not_depend_on_the_speed(serve: Serve) -> None:
    heard: list[list[str]] = []
    for speed in (None, 3_600.0):
        server = await serve(BTC, end=START + 2 * MINUTE, speed=speed)
        async with client_of(server) as client, asyncio.TaskGroup() as group:
            await client.subscribe("trade", BTC)
            await client.subscribe("ohlc", BTC, interval=1)
            group.create_task(played(server))
            texts, _ = await client.hear_all()
        heard.append([text for text in texts if '"update"' in text and '"channel":"status"' not in text])

    assert len(heard[0]) > 100
    assert heard[0] == heard[1]


async def test_candles_are_built_up_order_by_order_and_end_as_the_stored_ones(serve: Serve, filled: str) -> None:
    server = await serve()
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        await client.subscribe("ohlc", BTC, interval=1)
        await client.subscribe("ohlc", BTC, interval=5)
        group.create_task(played(server))
        texts, _ = await client.hear_all()

    async with HistoricalDataProvider(filled, 1, 1) as history:
        for interval in (1, 5):
            updates = [row for row in rows_in(texts, "ohlc") if row["interval"] == interval]
            last = {row["interval_begin"]: row for row in updates}
            stored = await history.get_candles(BTC, interval, START, END, gaps="ignore")

            assert len(updates) > 10 * len(last)
            assert updates[0]["trades"] < last[updates[0]["interval_begin"]]["trades"]
            assert [
                (row["open"], row["high"], row["low"], row["close"], row["volume"], row["trades"])
                for row in last.values()
            ] == [(c.open, c.high, c.low, c.close, c.volume, c.trade_count) for c in stored]


async def test_rest_pages_through_all_that_was_sent_however_little_of_it_is_in_memory(
    serve: Serve, trades: list[HistoricalTrade]
) -> None:
    server = await serve(kept_trades=50)
    async with client_of(server) as client:
        await client.control("start")
        await server.play()
        for symbol, pair in ((BTC, "XBTUSDT"), (XRP, "XRPXBT")):
            found: dict[int, list[Any]] = {}
            since = "0"
            while True:
                result = (await client.ask("Trades", pair=pair, since=since, count="300"))["result"]
                last = result.pop("last")
                (rows,) = result.values()
                found |= {row[6]: row for row in rows}
                if len(rows) < 300:
                    break
                since = last

            assert [(id_, Decimal(row[0]), Decimal(row[1]), row[3], row[4]) for id_, row in sorted(found.items())] == [
                (trade.id, trade.price, trade.volume, trade.side[0], trade.order_type[0])
                for trade in of_symbol(trades, symbol)
            ]
            assert [row[2] for _, row in sorted(found.items())] == [
                Decimal(str(trade.timestamp.timestamp())) for trade in of_symbol(trades, symbol)
            ]
        assert len(server.exchange.tapes[BTC]) <= 100


async def test_rest_shows_nothing_of_what_is_yet_to_come(serve: Serve, trades: list[HistoricalTrade]) -> None:
    server = await serve(BTC, kept_trades=20, speed=600.0)
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        playing = group.create_task(server.play())
        await client.control("start")
        await until(lambda: server.exchange.emitted > 200)
        await client.control("stop")
        await asyncio.sleep(0.1)  # an order that was due is sent
        emitted = server.exchange.emitted
        result = (await client.ask("Trades", pair="XBTUSDT", since="0"))["result"]
        clock_time = (await client.ask("Time"))["result"]["unixtime"]
        playing.cancel()

    rows = result["XBTUSDT"]
    expected = of_symbol(trades, BTC)[:emitted][:1000]
    assert [row[6] for row in rows] == [trade.id for trade in expected]
    assert START.timestamp() <= clock_time <= END.timestamp()
    assert clock_time >= int(rows[-1][2])


async def test_a_page_begins_where_since_says_also_where_the_tape_was_cut(
    serve: Serve, trades: list[HistoricalTrade]
) -> None:
    server = await serve(BTC, kept_trades=20)
    async with client_of(server) as client:
        await client.control("start")
        await server.play()
        for place in (0, 1, 500, 1500, len(of_symbol(trades, BTC)) - 5):
            trade = of_symbol(trades, BTC)[place]
            since = str(int(trade.timestamp.timestamp() * 1e6) * 1000)
            rows = (await client.ask("Trades", pair="XBTUSDT", since=since))["result"]["XBTUSDT"]

            same_instant = [each.id for each in of_symbol(trades, BTC) if each.timestamp == trade.timestamp]
            assert rows[0][6] == same_instant[0], place
            assert trade.id in {row[6] for row in rows}


async def test_rest_names_the_pairs_candles_and_status_of_the_replay_alone(serve: Serve, filled: str) -> None:
    server = await serve(BTC)
    async with client_of(server) as client:
        await client.control("start")
        await server.play()
        pairs = (await client.ask("AssetPairs"))["result"]
        unknown = await client.ask("Trades", pair="XRPXBT")
        status = (await client.ask("SystemStatus"))["result"]
        rows = (await client.ask("OHLC", pair="XBTUSDT", interval="1"))["result"]["XBTUSDT"]

    async with HistoricalDataProvider(filled, 1, 1) as history:
        stored = await history.get_candles(BTC, 1, START, END, gaps="ignore")
    assert [pair["wsname"] for pair in pairs.values()] == ["XBT/USDT"]
    assert unknown["error"] == ["EQuery:Unknown asset pair"]
    assert status["status"] == "online"
    traded = {row[0]: row for row in rows if row[7]}
    assert [(Decimal(row[1]), Decimal(row[4]), Decimal(row[6]), row[7]) for row in traded.values()] == [
        (c.open, c.close, c.volume, c.trade_count) for c in stored
    ]


async def test_a_late_subscriber_gets_a_snapshot_of_what_has_happened(
    serve: Serve, trades: list[HistoricalTrade]
) -> None:
    server = await serve(BTC)
    async with client_of(server) as client:
        await client.control("start")
        await server.play()
        await client.subscribe("trade", BTC)
        await client.subscribe("ohlc", BTC, interval=5)
        await until(lambda: [len(each.session.subscriptions) for each in server.hub.clients] == [2])
        await until(lambda: server.hub.most_queued_bytes == 0)
        await server.hub.close()
        texts, _ = await client.hear_all()

    assert [row["trade_id"] for row in rows_in(texts, "trade", "snapshot")] == [
        trade.id for trade in of_symbol(trades, BTC)[-50:]
    ]
    assert len(rows_in(texts, "ohlc", "snapshot")) == 6


async def test_time_stands_still_until_somebody_subscribes(serve: Serve) -> None:
    server = await serve(BTC, speed=1.0)
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        playing = group.create_task(server.play())
        await client.ask("Trades", pair="XBTUSDT")
        await asyncio.sleep(0.2)
        before = server.clock()
        await client.subscribe("trade", BTC)
        await until(lambda: server.clock.is_running)
        playing.cancel()

    assert before == int(START.timestamp()) * 10**9


async def test_a_range_with_missing_trades_is_refused_before_the_port_opens(
    serve: Serve, pool: asyncpg.Pool, trades: list[HistoricalTrade]
) -> None:
    lost = of_symbol(trades, BTC)[-1].id + 10
    await Store(pool).write([make_trade(lost, END + MINUTE)])

    with pytest.raises(CoverageError, match="BTC/USDT"):
        await serve(end=END + MINUTE, gaps="raise")
    server = await serve(end=END + MINUTE, gaps="ignore")
    async with client_of(server) as client:
        await client.control("start")
        assert await server.play() == len(trades)


async def test_prices_with_more_digits_than_are_known_of_a_pair_keep_them(serve: Serve, pool: asyncpg.Pool) -> None:
    await Store(pool).write([make_trade(1, START, "0.123456789", symbol="NEW/USD")])
    server = await serve("NEW/USD")
    async with client_of(server) as client:
        await client.control("start")
        await server.play()
        rows = (await client.ask("Trades", pair="NEWUSD"))["result"]["NEWUSD"]

    assert rows[0][0] == "0.123456789"


async def test_a_symbol_of_which_nothing_is_stored_is_refused(serve: Serve) -> None:
    with pytest.raises(UnknownSymbol):
        await serve("DOGE/USD")


def shape(value: Any) -> Any:
    """The fields and types of a frame, in their order, without the number of rows."""
    match value:
        case dict():
            return [(name, shape(each)) for name, each in value.items()]
        case list():
            return [shape(value[0])] if value else []
        case str():
            return "time " + str(len(value)) if value.endswith("Z") and value[4:5] == "-" else "text"
        case bool():
            return "truth"
        case _:
            return "number"


@pytest.mark.parametrize(
    ("recording", "channel", "symbol"),
    [("ws_v2_btcusd_trade_2026-09-25", "trade", "BTC/USD"), ("ws_v2_btcusdt_ohlc_2026-09-10", "ohlc", "BTC/USDT")],
)
async def test_frames_have_the_shape_of_the_recorded_ones(
    recording: str, channel: str, symbol: str, recordings: Any, serve: Serve
) -> None:
    lines = (recordings / f"ws_v2/{recording}.jsonl").read_text().splitlines()
    recorded = [json.loads(line) for line in lines]
    server = await serve(BTC)
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        await client.subscribe(channel, BTC, **({"interval": 1} if channel == "ohlc" else {}), snapshot=True)
        group.create_task(played(server))
        texts, _ = await client.hear_all()
    frames = [json.loads(text) for text in texts]

    def kinds(of: list[Any]) -> dict[tuple[str, str], Any]:
        return {(frame["channel"], frame["type"]): shape(frame) for frame in of if "type" in frame and frame["data"]}

    ours, theirs = kinds(frames), kinds([frame for frame in recorded if frame.get("channel") in (channel, "status")])
    compared = ours.keys() & theirs.keys()
    assert (channel, "update") in compared
    assert ("status", "update") in compared
    for kind in compared:
        assert ours[kind] == theirs[kind], kind
    (answer,) = [frame for frame in frames if frame.get("method") == "subscribe"]
    accepted = [
        frame
        for frame in recorded
        if frame.get("method") == "subscribe" and frame["success"] and frame["result"]["channel"] == channel
    ]
    assert {name for name, _ in shape(answer)} == {name for name, _ in shape(accepted[0])} | {"req_id"}
    assert shape(answer["result"]) == shape(accepted[0]["result"])
