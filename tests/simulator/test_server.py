"""The simulator over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

from kraken_history.errors import UsageError
from kraken_history.kraken.websocket import (
    Candles,
    Frame,
    Heartbeat,
    Status,
    Subscribed,
    Trades,
    decode_frame,
    encode_subscribe,
)
from kraken_history.symbols import DEFAULT_SYMBOLS
from simulator import Simulator, digest_of
from tests.support.exchanges import NOON_NS, ManualClock


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


async def read_until(socket: ClientWebSocketResponse, kind: type, count: int = 1) -> list[Frame]:
    """Frames up to the ``count``-th of a kind."""
    frames: list[Frame] = []
    while sum(isinstance(frame, kind) for frame in frames) < count:
        frames.append(decode_frame((await socket.receive_str(timeout=5)).encode()))
    return frames


async def get(http: ClientSession, simulator: Simulator, path: str, **params: str) -> Any:
    async with http.get(simulator.rest_url + path, params=params) as response:
        assert response.status == 200
        return await response.json()


async def post(http: ClientSession, simulator: Simulator, path: str) -> Any:
    async with http.post(simulator.rest_url + path) as response:
        assert response.status == 200
        return await response.json()


async def test_every_frame_of_a_live_connection_is_decoded_and_no_trade_is_missing(http: ClientSession) -> None:
    async with Simulator(rate=5000, seed=5) as simulator, http.ws_connect(simulator.ws_url) as socket:
        await socket.send_bytes(encode_subscribe("trade", DEFAULT_SYMBOLS, req_id=1))
        await socket.send_bytes(encode_subscribe("ohlc", DEFAULT_SYMBOLS, req_id=2))
        frames = await read_until(socket, Trades, count=60)
        kinds = {type(frame) for frame in frames}
        emitted = simulator.exchange.emitted

    assert kinds == {Status, Subscribed, Trades, Candles}
    assert isinstance(frames[0], Status)
    ids: dict[str, list[int]] = {}
    for frame in frames:
        for trade in frame.trades if isinstance(frame, Trades) else ():
            ids.setdefault(trade.symbol, []).append(trade.id)
    assert all(seen == list(range(seen[0], seen[0] + len(seen))) for seen in ids.values())
    assert emitted > 0


async def test_a_test_makes_trades_without_waiting(http: ClientSession) -> None:
    clock = ManualClock()
    async with Simulator(emitting=False, clock=clock) as simulator, http.ws_connect(simulator.ws_url) as socket:
        await socket.send_bytes(encode_subscribe("trade", ["BTC/USDT"], req_id=1))
        await read_until(socket, Trades)
        made = simulator.emit(300)
        (update,) = await read_until(socket, Trades)

    assert isinstance(update, Trades)
    assert [trade.id for trade in update.trades] == [trade.id for trade in made["BTC/USDT"]]
    assert int(update.trades[0].timestamp.timestamp()) == NOON_NS // 10**9


async def test_heartbeats_come_only_to_subscribers_and_only_while_nothing_else_does(http: ClientSession) -> None:
    async with (
        Simulator(emitting=False, heartbeat_s=0.05) as simulator,
        http.ws_connect(simulator.ws_url) as subscriber,
        http.ws_connect(simulator.ws_url) as listener,
    ):
        await subscriber.send_bytes(encode_subscribe("trade", ["BTC/USDT"], req_id=1))
        await read_until(subscriber, Heartbeat, count=3)
        await listener.send_str('{"method":"ping"}')
        heard = [decode_frame((await listener.receive_str(timeout=5)).encode()) for _ in range(2)]

    assert not any(isinstance(frame, Heartbeat) for frame in heard)


async def test_the_socket_stays_open_after_a_refusal(http: ClientSession) -> None:
    async with Simulator(emitting=False) as simulator, http.ws_connect(simulator.ws_url) as socket:
        await socket.send_bytes(encode_subscribe("trade", ["XBT/USDT"], req_id=1))
        await socket.send_bytes(encode_subscribe("trade", ["BTC/USDT"], req_id=2))
        frames = await read_until(socket, Subscribed)

    assert len(frames) == 3


async def test_a_client_that_does_not_read_is_disconnected_and_the_others_are_not(http: ClientSession) -> None:
    async with Simulator(emitting=False, max_queued_bytes=200_000) as simulator:
        async with http.ws_connect(simulator.ws_url) as reader:
            await reader.send_bytes(encode_subscribe("trade", ["BTC/USDT"], req_id=1))
            await read_until(reader, Subscribed)
            sleeper = await _connect_and_never_read(simulator)
            while len(simulator.hub.clients) < 2:
                await get(http, simulator, "/control/state")
            while len(simulator.hub.clients) == 2:
                simulator.emit(100)
                await read_until(reader, Trades)

            assert simulator.hub.dropped_for_slowness == 1
            assert not reader.closed
        sleeper.close()


async def _connect_and_never_read(simulator: Simulator) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(simulator.host, simulator.port, limit=1024)
    writer.write(
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    request = encode_subscribe("trade", ["BTC/USDT"], req_id=1)
    writer.write(bytes([0x81, 0x80 | len(request)]) + bytes(4) + request)
    return writer


async def test_truth_is_reproduced_from_the_trades_themselves(http: ClientSession) -> None:
    async with Simulator(emitting=False, history=2500) as simulator:
        simulator.emit(300)
        truth = await get(http, simulator, "/truth")
        page = await get(http, simulator, "/truth/trades", symbol="ETH/USDT")

    rows = [
        (row["id"], Decimal(row["price"]), Decimal(row["volume"]), row["side"], row["order_type"])
        for row in page["trades"]
    ]
    assert page["next_id"] is None
    assert sum(of_symbol["count"] for of_symbol in truth.values()) == 2800
    assert truth["ETH/USDT"] == {
        "count": len(rows),
        "first_id": rows[0][0],
        "last_id": rows[-1][0],
        "volume": f"{sum((row[2] for row in rows), Decimal(0)).normalize():f}",
        "sha256": digest_of(rows),
    }


async def test_truth_grows_with_the_trades(http: ClientSession) -> None:
    async with Simulator(emitting=False, symbols=["BTC/USDT"]) as simulator:
        empty = await get(http, simulator, "/truth")
        simulator.emit(10)
        ten = await get(http, simulator, "/truth")

    assert empty["BTC/USDT"]["first_id"] is None
    assert (empty["BTC/USDT"]["count"], empty["BTC/USDT"]["volume"]) == (0, "0")
    assert ten["BTC/USDT"]["count"] == 10
    assert ten["BTC/USDT"]["sha256"] != empty["BTC/USDT"]["sha256"]


async def test_truth_pages_are_bounded_by_ids_on_both_sides(http: ClientSession) -> None:
    async with Simulator(emitting=False, symbols=["BTC/USDT"]) as simulator:
        first = simulator.emit(100)["BTC/USDT"][0].id
        page = await get(
            http, simulator, "/truth/trades", symbol="BTC/USDT", from_id=str(first + 3), to_id=str(first + 5)
        )

    assert [row["id"] for row in page["trades"]] == [first + 3, first + 4, first + 5]
    assert page["next_id"] is None


@pytest.mark.parametrize("interval", [1, 60, 720])
async def test_truth_candles_hold_every_trade(http: ClientSession, interval: int) -> None:
    async with Simulator(emitting=False, history=3000, history_hours=30) as simulator:
        truth = await get(http, simulator, "/truth")
        candles = await get(http, simulator, "/truth/candles", symbol="XRP/BTC", interval=str(interval))

    rows = candles["candles"]
    assert sum(row["count"] for row in rows) == truth["XRP/BTC"]["count"]
    assert sum(Decimal(row["volume"]) for row in rows) == Decimal(truth["XRP/BTC"]["volume"])
    assert all(row["time"] % (interval * 60) == 0 for row in rows)


@pytest.mark.parametrize("query", ["", "?symbol=XBTUSDT", "?symbol=BTC/USDT&from_id=x", "?symbol=BTC/USDT&interval=x"])
async def test_a_bad_question_for_the_truth_is_answered_with_400(http: ClientSession, query: str) -> None:
    path = "/truth/candles" if "interval" in query else "/truth/trades"
    async with Simulator(emitting=False) as simulator, http.get(simulator.rest_url + path + query) as response:
        assert response.status == 400
        assert (await response.json())["error"]


async def test_controls_stop_and_start_the_trades_and_cut_the_sockets(http: ClientSession) -> None:
    async with Simulator(rate=2000) as simulator, http.ws_connect(simulator.ws_url) as socket:
        stopped = await post(http, simulator, "/control/stop")
        await asyncio.sleep(0.05)
        still_stopped = await get(http, simulator, "/control/state")
        started = await post(http, simulator, "/control/start")
        await socket.send_bytes(encode_subscribe("trade", ["BTC/USDT"], req_id=1))
        await read_until(socket, Trades, count=2)
        cut = await post(http, simulator, "/control/disconnect")
        while not socket.closed:
            await socket.receive(timeout=5)
        state = await get(http, simulator, "/control/state")

    assert (stopped["emitting"], still_stopped["emitting"], started["emitting"]) == (False, False, True)
    assert stopped["emitted"] == still_stopped["emitted"]
    assert not stopped["finished"]
    assert cut == {"disconnected": 1}
    assert state["clients"] == 0


async def test_a_recording_is_finished_once_it_was_played(http: ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    row = ["105433.60000", "0.00027625", 1762795433.9717445, "b", "l", "", 10218208]
    path.write_text(json.dumps({"error": [], "result": {"XBTUSDT": [row], "last": "1762795433971744500"}}))
    async with Simulator(recording=path, emitting=False) as simulator:
        before = await get(http, simulator, "/control/state")
        simulator.emit(10)
        after = await get(http, simulator, "/control/state")

    assert (before["finished"], after["finished"], after["emitted"]) == (False, True, 1)


async def test_a_recording_is_played_over_the_websocket_without_losing_a_trade(
    http: ClientSession, recordings: Path
) -> None:
    page = recordings / "rest/trades_xbtusdt_2025-11-10.json"
    async with Simulator(recording=page, rate=20_000, emitting=False) as simulator:
        async with http.ws_connect(simulator.ws_url) as socket:
            await socket.send_bytes(encode_subscribe("trade", ["BTC/USDT"], req_id=1))
            await read_until(socket, Trades)
            simulator.start_emitting()
            ids: list[int] = []
            while len(ids) < 1000:
                (update,) = await read_until(socket, Trades)
                assert isinstance(update, Trades)
                ids += [trade.id for trade in update.trades]
        state = await get(http, simulator, "/control/state")

    assert ids == list(range(10218208, 10219208))
    assert (state["emitting"], state["finished"], state["emitted"]) == (False, True, 1000)


async def test_the_rest_limit_is_one_of_the_constructors_parameters(http: ClientSession) -> None:
    async with Simulator(emitting=False, rest_burst=2, rest_rate=0.0) as simulator:
        answers = [await get(http, simulator, "/0/public/Trades", pair="XBTUSDT") for _ in range(3)]

    assert [answer["error"] for answer in answers] == [[], [], ["EGeneral:Too many requests"]]


async def test_a_port_in_use_is_said_in_one_sentence() -> None:
    async with Simulator(emitting=False) as simulator:
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{simulator.port}: .*in use"):
            await Simulator(emitting=False, port=simulator.port).start()


async def test_a_simulator_may_be_stopped_twice_or_before_it_started() -> None:
    simulator = Simulator(emitting=False)
    await simulator.stop()
    await simulator.start()
    await simulator.stop()
    await simulator.stop()


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_kept_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="expected a rate above 0"):
        Simulator(rate=rate)


async def test_stopping_tells_the_clients_that_the_server_goes_away(http: ClientSession) -> None:
    simulator = Simulator(emitting=False)
    await simulator.start()
    async with http.ws_connect(simulator.ws_url) as socket:
        await read_until(socket, Status)
        stopping = asyncio.create_task(simulator.stop())
        message = await socket.receive(timeout=5)
        await stopping

    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
