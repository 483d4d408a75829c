"""Faults at a second of the run: what clients see of them, and that they end."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from simulator import Simulator
from simulator.faults.director import Director
from simulator.faults.rules import rules_of
from simulator.notation import NS
from tests.simulator.listening import BTC, ETH, lines_of, listener, made
from tests.support.exchanges import NOON_NS, ManualClock
from tests.support.waiting import until


def quiet(*symbols: str, **options: Any) -> Simulator:
    return Simulator(symbols=symbols or [BTC], emitting=False, heartbeat_s=0.05, **options)


def ask(kraken: Simulator, method: str, **params: str) -> Any:
    return json.loads(kraken.rest.answer(method, params, ""))


async def test_a_clean_close_has_its_code() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("close:code=1012")

        assert await client.end() == (WSMsgType.CLOSE, 1012)


async def test_a_cut_is_the_end_of_the_stream_without_a_close() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("cut")
        await client.end()

    assert client.socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


async def test_a_reset_is_an_error_of_the_connection() -> None:
    async with quiet() as kraken:
        reader, writer = await asyncio.open_connection(kraken.host, kraken.port)
        writer.write(
            b"GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        (line,) = kraken.inject("reset")
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()

    assert line.hit == {"clients": 1}


async def test_a_silent_socket_may_have_heartbeats_and_lost_trades_stay_lost() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("silence:s=60,heartbeats=yes")
        made(kraken, 3)
        heard = [await client.socket.receive_str(timeout=5) for _ in range(2)]
        kraken.end_faults()
        ids = made(kraken, 2)
        await client.hear()

    assert set(heard) == {'{"channel":"heartbeat"}'}
    assert client.ids == ids


async def test_a_silent_socket_may_have_no_heartbeats_and_a_new_socket_is_not_silent() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("silence:s=60,heartbeats=no")
        made(kraken, 3)
        heard = await client.hear_until_silent(0.3, at_most=5)  # six heartbeats long
        async with listener(kraken, BTC) as new:
            ids = made(kraken, 2)
            await new.hear()

    assert len(heard) <= 1  # a heartbeat that was on its way
    assert new.ids == ids


async def test_one_symbol_can_be_silent() -> None:
    async with quiet(BTC, ETH) as kraken, listener(kraken, BTC, ETH) as client:
        kraken.inject(f"silence:symbol={BTC},s=60")
        batch = kraken.emit(60)
        await client.hear()

    assert client.ids == [[trade.id for trade in batch[ETH]]]


async def test_silence_ends_by_itself() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("silence:s=0.1,heartbeats=no")
        made(kraken, 1)
        (connection,) = kraken.hub.clients
        await until(lambda: connection.pipe.lets_heartbeats_pass(time.monotonic()))
        ids = made(kraken, 2)
        await client.hear()

    assert client.ids == ids


async def test_a_delisted_symbol_is_not_traded_listed_or_subscribed_until_it_is_listed_again() -> None:
    async with quiet(BTC, ETH, rest_burst=1000) as kraken, listener(kraken, BTC, ETH) as client:
        kraken.inject(f"delist:symbol={BTC}")
        kraken._seeded._market.take_rest_of_order()
        batch = kraken.emit(50)
        assert list(batch) == [ETH]
        assert ask(kraken, "Trades", pair="XBTUSDT")["error"] == ["EQuery:Unknown asset pair"]
        assert list(ask(kraken, "AssetPairs")["result"]) == ["ETHUSDT"]
        async with listener(kraken) as new:
            await new.socket.send_json({"method": "subscribe", "params": {"channel": "trade", "symbol": [BTC, ETH]}})
            await new.hear()
        assert new.accepted == [ETH]
        kraken.end_faults()
        client.texts.clear()
        later = kraken.emit(50)
        await client.hear()

    assert [trade.id for trade in later[BTC]] in client.ids
    assert len(ask(kraken, "AssetPairs")["result"]) == 2


async def test_maintenance_is_told_on_open_and_new_sockets_and_over_rest_and_stops_trading() -> None:
    async with quiet(rate=1000) as kraken, listener(kraken, BTC) as client:
        kraken.start_emitting()
        await client.hear_frames(3)
        kraken.inject("maintenance")
        emitted = kraken.exchange.emitted
        async with aiohttp.ClientSession() as http, http.ws_connect(kraken.ws_url) as socket:
            greeting = json.loads(await socket.receive_str(timeout=5))
        status = ask(kraken, "SystemStatus")["result"]["status"]
        still = kraken.exchange.emitted
        kraken.end_faults()
        await until(lambda: kraken.exchange.emitted > emitted)
        await client.hear()

    assert (greeting["data"][0]["system"], status) == ("maintenance", "maintenance")
    assert emitted == still
    told = [json.loads(text)["data"][0]["system"] for text in client.texts if '"channel":"status"' in text]
    assert told == ["maintenance", "online"]


async def test_the_clock_jumps_and_jumps_back() -> None:
    clock = ManualClock()
    async with quiet(clock=clock) as kraken:
        kraken.inject("clock_jump:by_s=3600,s=0.05")
        ahead = ask(kraken, "Time")["result"]["unixtime"]
        (trade,) = kraken.emit(1)[BTC]
        await until(lambda: kraken.clock() == clock())

    assert ahead == NOON_NS // NS + 3600
    assert trade.time_ns // NS == ahead


async def test_a_clock_that_jumps_back_makes_no_trade_older_than_the_one_before() -> None:
    async with quiet(clock=ManualClock()) as kraken:
        before = kraken.emit(1)[BTC][0].time_ns
        kraken.inject("clock_jump:by_s=-3600")
        after = kraken.emit(1)[BTC][0].time_ns
        told = ask(kraken, "Time")["result"]["unixtime"]

    assert after >= before
    assert told == NOON_NS // NS - 3600


async def test_faults_of_the_run_come_at_their_second() -> None:
    async with quiet(faults="cut:at_s=0;bust:at_s=3600") as kraken:
        await until(lambda: kraken.director.log.count == 1)
        (line,) = lines_of(kraken)

    assert (line["fault"], line["point"], line["n"]) == ("cut", "second", 0)


def test_each_second_is_drawn_for_itself_from_the_seed() -> None:
    def seconds(seed: int, faults: str = "reset:p=0.05;delist:p=0.02,s=3") -> list[tuple[str, int, object]]:
        director = Director([BTC, ETH], rules=rules_of(faults), seed=seed, clock=lambda: 0.0)
        strikes = [strike for n in range(1000) for strike in director.ask("second", n=n)]
        return [(strike.fault, strike.where.n, strike.args.get("symbol")) for strike in strikes]

    assert seconds(1) == seconds(1)
    assert seconds(1) != seconds(2)
    assert 30 <= sum(fault == "reset" for fault, *_ in seconds(1)) <= 75
    assert {symbol for fault, _, symbol in seconds(1) if fault == "delist"} == {BTC, ETH}
    resets = seconds(1, "reset:p=0.05,at_s=100,for_s=200,count=4")
    assert resets == [found for found in seconds(1, "reset:p=0.05") if 100 <= found[1] < 300][:4]
